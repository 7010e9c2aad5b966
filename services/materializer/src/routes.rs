//! All HTTP routes of the materializer on one router: the inbox, acknowledgements and rejected records.

use axum::Router;

use crate::state::InboxState;
use crate::{acks, inbox, rejected};

/// The routes, relative to a mount.
pub fn routes(state: InboxState) -> Router {
    // `inbox` and `acks` share paths: one registers GET, the other DELETE.
    Router::new().merge(inbox::routes()).merge(acks::routes()).merge(rejected::routes()).with_state(state)
}
