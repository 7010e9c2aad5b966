//! All HTTP routes of the materializer on one router: the inbox, acknowledgements and rejected records.

use http_server::Routes;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::state::InboxState;
use crate::{acks, inbox, rejected};

/// The routes, relative to a mount.
pub fn routes(state: InboxState) -> Routes {
    described().with_state(state).into()
}

/// What the routes say of themselves.
pub fn openapi() -> OpenApi {
    described().into_openapi()
}

fn described() -> OpenApiRouter<InboxState> {
    // `inbox` and `acks` share paths: one registers GET, the other DELETE.
    OpenApiRouter::new().merge(inbox::routes()).merge(acks::routes()).merge(rejected::routes())
}
