//! The stack with real servers: round trips, restarts, refusals, and a killed parent.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

mod cluster;
mod command;
mod parent;
mod protection;
mod refusals;
mod restarts;
mod shared;
mod traffic;
