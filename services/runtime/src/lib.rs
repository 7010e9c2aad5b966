//! What every role runs on: lifecycle and supervision, health, PostgreSQL, telemetry, sealing, retries.
//!
//! Nothing here knows Kafka, HTTP, events or tenants.

#![deny(missing_docs)]

pub mod config;
pub mod health;
pub mod lifecycle;
pub mod on_demand;
pub mod postgres;
pub mod retry;
pub mod seal;
pub mod telemetry;
