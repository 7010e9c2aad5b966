//! Reads the inbox over HTTP: pages, single events and their delivery status, all from the view.
//!
//! `cursor`, `merge`, `advance_cursor` and `request` are pure. `bounds`, `time_window`, `query` and `event` hold the
//! SQL. The projector writes the view; `acks` acknowledges events.

mod advance_cursor;
mod bounds;
mod cursor;
mod event;
mod item;
mod list;
mod merge;
mod page_bytes;
mod query;
mod request;
mod status;
mod time_window;

use axum::Router;
use axum::routing::get;

use crate::state::InboxState;

pub(crate) use request::PARAMETERS;

/// The routes, relative to a mount.
pub(crate) fn routes() -> Router<InboxState> {
    Router::new()
        .route("/inbox", get(list::list))
        .route("/inbox/{id}", get(event::event))
        .route("/events/{id}", get(event::event))
        .route("/events/{id}/status", get(status::status))
}
