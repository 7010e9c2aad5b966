//! Acknowledges events over HTTP: several routes, one idempotent operation. An ack is a record on the log. The routes
//! write it and wait until the view shows it. The projector applies acks to the view; `inbox` reads the view.

mod acknowledge;
mod many;
mod one;
mod target;

use http_server::also_at;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::InboxState;

/// The routes, relative to a mount.
pub(crate) fn routes() -> OpenApiRouter<InboxState> {
    OpenApiRouter::new()
        .routes(routes!(one::delete))
        .routes(also_at(routes!(one::delete), "/inbox/{id}", "delete_inbox_event"))
        .routes(routes!(one::ack))
        .routes(also_at(routes!(one::ack), "/inbox/ack/{id}", "acknowledge_inbox_event"))
        .routes(also_at(routes!(one::ack), "/ack/{id}", "acknowledge"))
        .routes(routes!(many::ack))
}
