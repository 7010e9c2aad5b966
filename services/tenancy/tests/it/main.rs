//! Integration tests of tenancy: real HTTP, a real PostgreSQL, several instances side by side.
//!
//! Each test has more than one thread: it waits at its end until its database is dropped, and PostgreSQL does not drop
//! one while a connection is being opened. The tasks of the instance must be able to finish meanwhile.

// clippy.toml lifts these for tests, but not for the helpers around them.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod audit;
mod change_keys;
mod decoders;
mod dev_keys;
mod erasure;
mod instance;
mod limits;
mod organizations;
mod outage;
mod rate_limits;
mod revocation;
mod routes;
mod signup;
