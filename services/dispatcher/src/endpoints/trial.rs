//! `POST /endpoints/{id}/test`.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use http_server::{PathId, Problem};
use schemas::ids::EndpointId;
use tenancy::audit::{Actor, Origin};

use super::EndpointsState;
use super::managers::EndpointWriter;
use super::notes::note;
use super::problems::{failed, refused};
use super::store::{self, CreateError};
use crate::deliveries::ScheduledDelivery;
use crate::retry::schedule;

/// Test an endpoint
///
/// Sends an event of type `triggers.test` to it, once, signed as any other, whatever types and payloads it wants. The
/// event is not in the inbox. Read the delivery to see how it went. A test counts as a change of the endpoint.
#[utoipa::path(
    post, path = "/endpoints/{id}/test", operation_id = "test_endpoint", tag = "Webhooks",
    params(("id" = EndpointId, Path, description = "Id of the endpoint.")),
    responses((status = 202, description = "The delivery of the test.", body = ScheduledDelivery)),
    security(("key" = ["manage"])),
    extensions(("x-error-codes" = json!(["endpoint_disabled", "too_many_open_deliveries"]))),
)]
pub(super) async fn test(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<EndpointsState>,
    origin: Origin,
    PathId(id): PathId<EndpointId>,
) -> Result<(StatusCode, Json<ScheduledDelivery>), Problem> {
    let endpoint = store::get(&state.pool, caller.org_id, id).await.map_err(failed)?.ok_or_else(Problem::not_found)?;
    if !endpoint.enabled {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "endpoint_disabled",
            "the endpoint is disabled; enable it first",
        ));
    }
    let mut transaction = state.begin_change(caller.org_id).await?;
    if store::is_erased(&mut transaction, caller.org_id).await.map_err(failed)? {
        return Err(refused(CreateError::Erased));
    }
    let scheduled = schedule::schedule_test(&mut transaction, caller.org_id, id, state.open_limits);
    let delivery_id = scheduled
        .await
        .map_err(failed)?
        .map_err(|reason| Problem::new(StatusCode::CONFLICT, "too_many_open_deliveries", reason))?;
    let actor = Actor::Key(caller.key_id);
    note(&mut transaction, actor, Some(&origin), "endpoint.tested", &endpoint).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok((StatusCode::ACCEPTED, Json(ScheduledDelivery { delivery_id })))
}
