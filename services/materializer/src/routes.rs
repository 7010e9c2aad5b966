//! All HTTP routes of the materializer on one router: the inbox, acknowledgements and rejected records.

use axum::Router;
use http::Method;
use http_server::Routes;

use crate::state::InboxState;
use crate::{acks, inbox, rejected};

/// The routes, relative to a mount.
pub fn routes(state: InboxState) -> Routes {
    // `inbox` and `acks` share paths: one registers GET, the other DELETE.
    let router = Router::new().merge(inbox::routes()).merge(acks::routes()).merge(rejected::routes());
    Routes::from(router.with_state(state)).with_query(Method::GET, "/inbox", inbox::PARAMETERS).with_query(
        Method::GET,
        "/rejected",
        rejected::PARAMETERS,
    )
}
