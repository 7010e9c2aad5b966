//! Reads the inbox over HTTP: pages, single events and their delivery status, all from the view.
//!
//! `cursor`, `merge`, `advance_cursor` and `request` are pure. `bounds`, `time_window`, `query` and `event` hold the
//! SQL. The projector writes the view; `acks` acknowledges events.

mod advance_cursor;
#[cfg(feature = "bench")]
pub mod bench;
mod bounds;
mod cursor;
mod event;
mod item;
mod list;
mod many_open;
mod merge;
mod page_bytes;
mod query;
mod request;
mod select;
mod status;
mod time_window;

use http_server::also_at;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use self::many_open::ManyOpen;
use crate::state::InboxState;

/// The routes, relative to a mount.
pub(crate) fn routes() -> OpenApiRouter<InboxState> {
    OpenApiRouter::new()
        .routes(routes!(list::list))
        .routes(routes!(event::event))
        .routes(also_at(routes!(event::event), "/inbox/{id}", "get_inbox_event"))
        .routes(routes!(status::status))
}
