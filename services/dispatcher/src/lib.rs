//! Webhooks: matches events to endpoints, sends signed requests, retries them, and reports every attempt to the log.
//!
//! Here: endpoints, their routes and their cache (`endpoints`); first attempts from the log (`log`); retries from the
//! schedule (`retry`); several events in one request (`batch`); one HTTP request with its report (`attempt`); the
//! routes that show deliveries (`deliveries`); lanes of ordered endpoints (`lane`); acknowledging what was delivered
//! (`acks`); the erasure of an organization's endpoints and rows (`erasing`). [`start`] runs all of it but the routes.
//! The process that may write events also appends the system's own (`system_events`).
//!
//! Elsewhere: the inbox, which shows the reported attempts (`materializer`); the authentication of callers (`tenancy`).

mod acks;
mod attempt;
mod batch;
#[cfg(feature = "bench")]
pub mod bench;
mod config;
mod deliveries;
mod delivery;
mod dependencies;
mod endpoints;
mod erasing;
mod error;
mod lane;
mod log;
mod metrics;
mod replays;
mod retry;
mod run;
mod system_events;

pub use attempt::connector::ClientError;
pub use attempt::egress::EgressPolicy;
pub use config::{CONSUMER, DispatcherConfig, EgressArgs, EndpointArgs, EndpointSettings, WebhookArgs};
pub use deliveries::{delivery_openapi, delivery_routes};
pub use endpoints::{default_endpoint, openapi, routes};
pub use retry::schedule::OpenLimits;
pub use run::start;
pub use system_events::append_system_events;
