//! `POST /endpoints/{id}/enable` and `/disable`: as a PATCH of `enabled`.

use axum::Json;
use axum::extract::State;
use http_server::{PathId, Problem};
use schemas::ids::EndpointId;
use tenancy::Caller;
use tenancy::audit::{Actor, Origin};

use super::EndpointsState;
use super::bodies::EndpointBody;
use super::edit::apply;
use super::input::EndpointPatch;
use super::managers::EndpointWriter;
use super::notes::note;
use super::problems::failed;
use super::store;

/// Enable an endpoint
///
/// Its deliveries that were held are sent.
#[utoipa::path(
    post, path = "/endpoints/{id}/enable", operation_id = "enable_endpoint", tag = "Webhooks",
    params(("id" = EndpointId, Path, description = "Id of the endpoint.")),
    responses((status = 200, description = "The endpoint.", body = EndpointBody)),
    security(("key" = ["manage"])),
)]
pub(super) async fn enable(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<EndpointsState>,
    origin: Origin,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<EndpointBody>, Problem> {
    switch(&state, &caller, &origin, id, true).await
}

/// Disable an endpoint
///
/// It gets no further events. Its deliveries that are not finished are held.
#[utoipa::path(
    post, path = "/endpoints/{id}/disable", operation_id = "disable_endpoint", tag = "Webhooks",
    params(("id" = EndpointId, Path, description = "Id of the endpoint.")),
    responses((status = 200, description = "The endpoint.", body = EndpointBody)),
    security(("key" = ["manage"])),
)]
pub(super) async fn disable(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<EndpointsState>,
    origin: Origin,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<EndpointBody>, Problem> {
    switch(&state, &caller, &origin, id, false).await
}

async fn switch(
    state: &EndpointsState,
    caller: &Caller,
    origin: &Origin,
    id: EndpointId,
    enabled: bool,
) -> Result<Json<EndpointBody>, Problem> {
    let mut transaction = state.begin_change(caller.org_id).await?;
    let version = store::raise_version(&mut transaction).await.map_err(failed)?;
    let patch = EndpointPatch { enabled: Some(enabled), ..EndpointPatch::default() };
    let change = |endpoint: &mut _| apply(endpoint, patch, &state.sealing);
    let stored = store::update(&mut transaction, version, caller.org_id, id, change)
        .await
        .map_err(failed)?
        .ok_or_else(Problem::not_found)?;
    let action = if enabled { "endpoint.enabled" } else { "endpoint.disabled" };
    note(&mut transaction, Actor::Key(caller.key_id), Some(origin), action, &stored).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(Json(EndpointBody::new(stored)))
}
