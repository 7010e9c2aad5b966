//! Integration tests of tenancy: real HTTP, a real PostgreSQL, several instances side by side.
//!
//! Each test has threads besides its own: at its end it waits for its database to be dropped, and PostgreSQL drops none
//! while a connection is being opened. The instance's tasks must be able to finish that meanwhile.

// clippy.toml lifts these for tests, but not for the helpers around them.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod decoders;
mod dev_keys;
mod erasure;
mod instance;
mod limits;
mod outage;
mod proxy;
mod revocation;
mod routes;
mod signup;
