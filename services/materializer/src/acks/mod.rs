//! Acknowledges events over HTTP: several routes, one idempotent operation. An ack is a record on the log. The routes
//! write it and wait until the view shows it. The projector applies acks to the view; `inbox` reads the view.

mod acknowledge;
mod many;
mod one;
mod target;

use axum::Router;
use axum::routing::{delete, post};

use crate::state::InboxState;

/// The routes, relative to a mount.
pub(crate) fn routes() -> Router<InboxState> {
    Router::new()
        .route("/events/{id}", delete(one::delete))
        .route("/inbox/{id}", delete(one::delete))
        .route("/events/{id}/ack", post(one::ack))
        .route("/inbox/ack/{id}", post(one::ack))
        .route("/ack/{id}", post(one::ack))
        .route("/inbox/ack", post(many::ack))
}
