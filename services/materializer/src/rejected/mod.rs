//! Rejected records: dead letters as the tenant that owns their key may see them. `rows` writes and deletes the rows of
//! the view, `list` shows them, `cursor` is the paging cursor.
//!
//! Tenants never see the bytes of a dead letter; `dead_letters` keeps those for operators.

mod cursor;
mod list;
pub(crate) mod rows;

use axum::Router;
use axum::routing::get;
use http_server::Parameter;

use crate::state::InboxState;

/// The query parameters of `GET /rejected`.
pub(crate) const PARAMETERS: &[Parameter] = &[Parameter::one("limit"), Parameter::one("cursor")];

/// The route, relative to a mount.
pub(crate) fn routes() -> Router<InboxState> {
    Router::new().route("/rejected", get(list::list))
}
