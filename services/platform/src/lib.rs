//! Plumbing with no business in it: Kafka, PostgreSQL, HTTP, configuration, lifecycle, telemetry, sealing.
//!
//! What lives here is used by at least two slices and knows nothing of events, inboxes or webhooks. What a record
//! means, which routes exist and who may call them lives in the slices; table layouts live in `schemas`.

#![deny(missing_docs)]

pub mod config;
pub mod fence;
pub mod health;
pub mod http;
pub mod kafka;
pub mod lifecycle;
pub mod on_demand;
pub mod postgres;
pub mod read_your_writes;
pub mod retry;
pub mod seal;
pub mod telemetry;
