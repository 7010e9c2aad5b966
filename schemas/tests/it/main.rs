//! Fuzz tests of the decoders.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

mod decoders;
mod samples;
