//! Integration tests of the materializer, on a real Kafka and a real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

mod acks;
mod erasing;
mod inbox;
mod projector;
mod rebuild;
mod rejected;
