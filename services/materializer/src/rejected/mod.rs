//! Rejected records: those that became dead letters, as the tenant whose key they have may see them. `rows` writes them
//! into the view and takes them away, `list` shows them, `cursor` is the place within a reading.
//!
//! The dead letters themselves, with their bytes, are the projector's and an operator's business.

mod cursor;
mod list;
pub(crate) mod rows;

use axum::Router;
use axum::routing::get;

use crate::inbox::InboxState;

/// The route, relative to a mount.
pub(crate) fn routes() -> Router<InboxState> {
    Router::new().route("/rejected", get(list::list))
}
