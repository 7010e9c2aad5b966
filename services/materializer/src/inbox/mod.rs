//! The inbox over HTTP: pages, single events and their status, read from the view; and the state that the
//! acknowledgements and the rejected records share.
//!
//! What a page is, is computed by pure parts (`cursor`, `merge`, `page`, `request`); `query`, `seek` and `event` hold
//! the SQL; `read_your_writes` and `notifier` wait until the view has got further. The projector writes the view, `acks`
//! acknowledges.

mod cursor;
pub(crate) mod event;
mod item;
mod list;
mod merge;
mod notifier;
mod page;
pub(crate) mod position;
mod query;
mod read_your_writes;
mod request;
mod seek;
pub(crate) mod state;
mod status;

use axum::Router;
use axum::routing::get;

pub use state::{InboxState, READ_SETTINGS};

/// The routes of the inbox, of the acknowledgements and of the rejected records, relative to a mount.
pub fn routes(state: InboxState) -> Router {
    Router::new()
        .route("/inbox", get(list::list))
        // One router entry per path: reading and acknowledging share theirs.
        .route("/inbox/{id}", get(event::event).delete(crate::acks::delete))
        .route("/events/{id}", get(event::event).delete(crate::acks::delete))
        .route("/events/{id}/status", get(status::status))
        .merge(crate::acks::routes())
        .merge(crate::rejected::routes())
        .with_state(state)
}
