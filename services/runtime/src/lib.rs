//! What every role needs: signals and supervision, health, PostgreSQL, telemetry, sealing, retries.
//!
//! This crate does not depend on Kafka, HTTP, events or organizations.

#![deny(missing_docs)]

pub mod budget;
pub mod config;
pub mod health;
pub mod lifecycle;
pub mod on_demand;
pub mod postgres;
pub mod retry;
pub mod seal;
pub mod telemetry;
