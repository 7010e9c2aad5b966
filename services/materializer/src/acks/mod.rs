//! Acknowledging over HTTP: many routes, one idempotent operation. An ack is a record on the log like any other; this
//! writes it and waits until the projector has shown it. Applying acks to the view is the projector's business, reading
//! the inbox that of `inbox`.

mod acknowledge;
mod many;
mod one;
mod target;

use axum::Router;
use axum::routing::post;

use crate::inbox::InboxState;

/// `DELETE` of an event's path; mounted beside the reads of the same paths.
pub(crate) use one::delete;

/// The routes that belong to acknowledging alone.
pub(crate) fn routes() -> Router<InboxState> {
    Router::new()
        .route("/events/{id}/ack", post(one::ack))
        .route("/inbox/ack/{id}", post(one::ack))
        .route("/ack/{id}", post(one::ack))
        .route("/inbox/ack", post(many::ack))
}
