//! What the integration tests of several crates share: databases and topics of one test, an HTTP server and client,
//! records, webhook receivers, proxies before PostgreSQL and before an HTTP server, certificates, and an audit of the
//! fence. Only ever a dev-dependency.
//!
//! Servers, and waiting for a condition, are in `devstack::testing`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

pub mod answer_proxy;
pub mod api;
pub mod certificates;
pub mod fence_audit;
pub mod proxy;
pub mod receiver;
pub mod records;
pub mod setup;
pub mod tls_receiver;
