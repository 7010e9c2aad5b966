//! Integration tests of the contracts: what holds of bytes from anywhere.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

mod decoders;
mod samples;
