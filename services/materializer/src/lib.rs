//! The view: the tables that the inbox reads, computed from the log.
//!
//! This crate holds the projector (it writes the log's records to the tables, decides duplicates and writes dead
//! letters), the rebuild of the view from the log, the inbox API and acknowledgements. Events are accepted by `ingest`,
//! webhooks are sent by `dispatcher`, records are defined in `schemas` and API keys in `tenancy`. No other crate writes
//! the tables of schema `view`.

mod acks;
mod columns;
pub mod dead_letters;
mod inbox;
mod metrics;
mod notifier;
mod position_token;
pub mod projector;
mod read_your_writes;
pub mod rebuild;
mod rejected;
mod routes;
mod state;

#[cfg(feature = "bench")]
pub use inbox::bench as inbox_bench;
pub use routes::{openapi, routes};
pub use state::InboxState;
