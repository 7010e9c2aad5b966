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
#[cfg(feature = "bench")]
pub mod bench;
mod bodies;
mod dedup_cache;
mod dedup_lookup;
mod hops;
mod metrics;
mod reply;
mod state;
mod turn;

use http_server::Routes;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use state::IngestState;

/// The routes, relative to a mount.
pub fn routes(state: IngestState) -> Routes {
    described().with_state(state).into()
}

/// What the routes say of themselves.
pub fn openapi() -> OpenApi {
    described().into_openapi()
}

fn described() -> OpenApiRouter<IngestState> {
    OpenApiRouter::new().routes(routes!(accept::accept)).routes(routes!(batch::accept))
}
