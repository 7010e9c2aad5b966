//! The inbox view: everything between the log and what a consumer reads.
//!
//! Lives here: the projector (log to tables, which of two duplicates is the original, dead letters), reading the log
//! again, reading the inbox, and acknowledgements. Does not live here: accepting events (`ingest`), webhooks
//! (`dispatcher`), and what a record or a key is (`schemas`, `tenancy`). Nobody else writes the tables of schema
//! `view`.

mod acks;
pub mod dead_letters;
pub mod inbox;
mod metrics;
pub mod projector;
pub mod rebuild;
mod rejected;
