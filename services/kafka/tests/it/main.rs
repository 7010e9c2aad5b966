//! Integration tests of the plumbing, on a real Kafka and a real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

mod consumer;
mod fence;
mod leaderless;
mod log_identity;
mod log_reader;
mod native;
mod positions;
mod producer;
mod producer_recreation;
mod stall;
mod topics;
mod unclaimed;

use testkit::setup::database;
