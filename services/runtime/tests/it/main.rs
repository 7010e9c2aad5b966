//! Integration tests of `runtime`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

mod connections;
mod lifecycle;
mod schema;
mod tls;
mod transactions;

use testkit::setup::database;
