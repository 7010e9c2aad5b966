//! Rejected records: dead letters as the tenant that owns their key may see them. `rows` writes and deletes the rows of
//! the view, `list` shows them, `cursor` is the paging cursor.
//!
//! Tenants never see the bytes of a dead letter; `dead_letters` keeps those for operators.

mod cursor;
mod list;
pub(crate) mod rows;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::InboxState;

/// The route, relative to a mount.
pub(crate) fn routes() -> OpenApiRouter<InboxState> {
    OpenApiRouter::new().routes(routes!(list::list))
}
