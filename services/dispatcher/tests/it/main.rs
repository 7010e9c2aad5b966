//! Integration tests of the dispatcher: a real Kafka, a real PostgreSQL, receivers on this machine.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

mod batches;
mod connections;
mod default_endpoint;
mod deliveries;
mod delivery;
mod endpoints;
mod erasure;
mod fairness;
mod filters;
mod guard;
mod keyed;
mod log_epochs;
mod manual_retries;
mod replays;
mod reporting;
mod restart;
mod retrying;
mod rotating;
mod schedule;
mod sealing;
mod system;
mod trials;
