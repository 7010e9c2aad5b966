//! Every contract that crosses a boundary, and nothing else: ids, the records on the Kafka log and their encodings, the
//! rules a new event must meet, topic and header names, and the SQL migrations.
//!
//! What does not live here: anything that does I/O. This crate knows neither tokio nor rdkafka nor axum; it turns bytes
//! into checked values and back.

#![deny(missing_docs)]

pub mod cloudevents;
pub mod codec;
pub mod dedup;
pub mod event_json;
pub mod headers;
pub mod ids;
pub mod native;
pub mod position;
pub mod postgres;
pub mod records;
pub mod topics;
pub mod trace;
pub mod unix_time;
