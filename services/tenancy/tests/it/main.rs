//! Integration tests of tenancy: real HTTP, a real PostgreSQL, several instances side by side.

// clippy.toml lifts these for tests, but not for the helpers around them.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod dev_keys;
mod instance;
mod limits;
mod outage;
mod proxy;
mod revocation;
mod routes;
mod signup;
