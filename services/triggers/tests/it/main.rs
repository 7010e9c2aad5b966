//! The built binary from outside, as its users have it: processes and their ends, HTTP, Kafka, the command line,
//! webhooks.
//!
//! Whole systems are dear: tests of roles share one Kafka and one PostgreSQL, with topics and a database of their own.
//! What a slice does in detail is shown by its own tests.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

mod api;
mod backfill;
mod batched_delivery;
mod bombs;
mod budgets;
mod cli;
mod client_certificates;
mod deliveries;
mod delivery_log;
mod described;
mod dlq;
mod draining;
mod duplicates;
mod endpoint_changes;
mod erasure;
mod fencing;
mod log;
mod loops;
mod metrics_port;
mod native;
mod old_clients;
mod options;
mod ordered_webhooks;
mod outages;
mod outgoing;
mod positions;
mod process;
mod restore;
mod rust_client;
mod rust_client_examples;
mod scaling;
mod scheduled_retries;
mod schema;
mod secured;
mod small_inputs;
mod system;
mod up;
mod view;
