//! The contracts between processes and with users: ids, the records on the Kafka log and their encodings, the rules for
//! new events, topic and header names, and the SQL migrations.
//!
//! This crate does no I/O and does not depend on tokio, rdkafka or axum. It converts bytes into validated values and
//! back.

#![deny(missing_docs)]

pub mod batch;
pub mod cloudevents;
pub mod codec;
pub mod dedup;
pub mod event_json;
pub mod headers;
pub mod hops;
pub mod ids;
pub mod native;
pub mod position;
pub mod postgres;
pub mod records;
pub mod rights;
pub mod role;
pub mod topics;
pub mod trace;
pub mod unix_time;
