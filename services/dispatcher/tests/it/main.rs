//! Integration tests of the dispatcher: a real Kafka, a real PostgreSQL, receivers on this machine.

// clippy.toml lifts these for tests, but not for the functions around them.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod delivery;
mod endpoints;
mod guard;
mod keyed;
mod receiver;
mod restart;
mod retrying;
mod system;
