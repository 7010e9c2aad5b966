//! Integration tests of ingest over HTTP, with a real Kafka and a real PostgreSQL. A mock cluster is used only where a
//! broker must answer with an error.
//!
//! Each test has more than one thread: it waits at its end until its database is dropped, and its tasks must be able to
//! finish meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

mod accepting;
mod batch;
mod batch_lines;
mod batch_outages;
mod bench;
mod duplicates;
mod forms;
mod outages;
mod refusing;
