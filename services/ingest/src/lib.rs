//! Accepts events over HTTP: validate, recognize duplicates, append to the log, respond.
//!
//! Here: the accept routes for one event ([`accept`]) and for many ([`batch`]), the conversion of a request into an
//! event ([`admit`]), appending it ([`append`]), and the cache of recent dedup keys ([`dedup_cache`]). A success
//! code is sent only after Kafka's delivery report. Elsewhere: authentication (`tenancy`), the rules of a valid event
//! (`schemas`), and appending records (`kafka`). Only the materializer decides which of two duplicates is the original;
//! ingest answers with the decisions and the recent keys that it knows.

mod accept;
mod admit;
mod append;
mod batch;
mod dedup_cache;
mod dedup_lookup;
mod metrics;
mod reply;
mod state;
mod turn;

use axum::Router;
use axum::routing::post;
use http_server::Routes;

pub use state::IngestState;

/// The routes, relative to a mount.
pub fn routes(state: IngestState) -> Routes {
    let routes = Router::new().route("/events", post(accept::accept)).route("/events/batch", post(batch::accept));
    routes.with_state(state).into()
}
