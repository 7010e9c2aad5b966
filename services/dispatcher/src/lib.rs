//! Webhooks: matches events to endpoints, delivers them signed, retries, and reports every attempt to the log.
//!
//! Lives here: endpoints and their routes ([`routes`]), the pass over the log ([`start`]) and the schedule of what it did
//! not finish. The pure core is `matching`, `ledger`, `intake`, `queues`, `retry_policy`, `retry_after`, `sign`, `body`
//! and `egress`; around it lie `directory` (endpoints from the database), `attempt` and `resolver` (HTTP), `flight` and
//! `reporting` (an attempt and its report), `erasing` (what goes with an organization), `rows` and `commit` (SQL),
//! `verdicts` and `retries`.
//!
//! Does not live here: the inbox and what it shows of deliveries (`materializer`, which reads the reports), who may
//! call (`tenancy`).

mod attempt;
mod body;
mod commit;
mod config;
mod delivery;
mod directory;
mod egress;
mod endpoints;
mod erasing;
mod flight;
mod intake;
mod ledger;
mod matching;
mod metrics;
mod pass;
mod queues;
mod reading;
mod reporting;
mod resolver;
mod retries;
mod retry_after;
mod retry_policy;
mod rows;
mod run;
mod sign;
mod slots;
mod verdicts;

pub use attempt::ClientError;
pub use config::{DispatcherConfig, WebhookArgs};
pub use egress::EgressPolicy;
pub use endpoints::routes;
pub use run::start;

/// Name under which positions are kept, and of the health component.
pub const CONSUMER: &str = "dispatcher";
