//! Webhooks: matches events to endpoints, delivers them signed, retries, and reports every attempt to the log.
//!
//! Lives here: endpoints, their routes and their cache (`endpoints`); first attempts from the log (`log`); retries from
//! the schedule (`retry`); one HTTP request with its report (`attempt`); deleting what belongs to an erased organization
//! (`erasing`). [`start`] runs all of it.
//!
//! Does not live here: the inbox and what it shows of deliveries (`materializer`, which reads the reports), who may
//! call (`tenancy`).

mod attempt;
mod config;
mod delivery;
mod dependencies;
mod endpoints;
mod erasing;
mod error;
mod log;
mod metrics;
mod retry;
mod run;

pub use attempt::client::ClientError;
pub use attempt::egress::EgressPolicy;
pub use config::{DispatcherConfig, WebhookArgs};
pub use endpoints::routes;
pub use run::start;

/// Name under which positions are kept, and of the health component.
pub const CONSUMER: &str = "dispatcher";
