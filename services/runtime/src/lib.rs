//! What every role needs: signals and supervision, health, PostgreSQL, telemetry, sealing, retries, files with secrets,
//! and the HTTP client of our own programs.
//!
//! This crate does not depend on Kafka, the HTTP API, events or organizations.

#![deny(missing_docs)]

pub mod budget;
pub mod config;
pub mod health;
pub mod http_client;
pub mod lifecycle;
pub mod loopback;
pub mod on_demand;
pub mod postgres;
pub mod private_file;
pub mod retry;
pub mod seal;
pub mod telemetry;
pub mod weak_map;
