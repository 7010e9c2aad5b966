//! Integration tests of ingest through its public door: real HTTP, a real Kafka and a real PostgreSQL. A mock cluster
//! stands in only where a broker must answer with an error.
//!
//! Each test has threads besides its own: at its end it waits for its database to be dropped, and what the test started
//! must be able to finish meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

mod accepting;
mod bench;
mod forms;
mod outages;
mod refusing;
mod repeats;
