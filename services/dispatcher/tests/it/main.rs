//! Integration tests of the dispatcher: a real Kafka, a real PostgreSQL, receivers on this machine.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

mod batch_answers;
mod batches;
mod connections;
mod default_endpoint;
mod deliveries;
mod delivery;
mod disabling;
mod endpoint_credentials;
mod endpoints;
mod erasure;
mod errors;
mod event_replays;
mod fairness;
mod filters;
mod guard;
mod keyed;
mod log_epochs;
mod manual_retries;
mod ordered;
mod ordered_restarts;
mod rates;
mod receiver_auth;
mod replays;
mod reporting;
mod restart;
mod retrying;
mod rotating;
mod schedule;
mod sealing;
mod settings;
mod system;
mod token_endpoint;
mod trials;
