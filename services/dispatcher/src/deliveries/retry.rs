//! `POST /deliveries/{id}/retry`.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use http_server::{PathId, Problem};
use schemas::ids::DeliveryId;
use serde_json::json;
use tenancy::Caller;
use tenancy::audit::{self, Actor, Change, Origin};

use super::DeliveriesState;
use super::bodies::ScheduledDelivery;
use crate::endpoints::managers::EndpointWriter;
use crate::endpoints::store;
use crate::retry::schedule::{self, RetryOutcome};

/// Retry a delivery
///
/// A delivery that is finished, delivered ones too, gets another attempt at once. If that fails, it is retried by the
/// endpoint's `retry_schedule` from its start, even if its event is acknowledged. The numbers of its attempts go on. A
/// delivery that waits for its next attempt gets that attempt at once; its schedule goes on after it. The deliveries of
/// a disabled endpoint wait until it is enabled.
#[utoipa::path(
    post, path = "/deliveries/{id}/retry", operation_id = "retry_delivery", tag = "Webhooks",
    params(("id" = DeliveryId, Path, description = "Id of the delivery.")),
    responses((status = 202, description = "An attempt is due. It may take a moment until it is shown.",
        body = ScheduledDelivery)),
    security(("key" = ["manage"])),
    extensions(("x-error-codes" = json!(["endpoint_deleted", "event_not_kept", "too_many_open_deliveries"]))),
)]
pub(super) async fn retry(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<DeliveriesState>,
    origin: Origin,
    PathId(id): PathId<DeliveryId>,
) -> Result<(StatusCode, Json<ScheduledDelivery>), Problem> {
    let outcome = caller.shares().read(retry_in_database(&state, &caller, &origin, id)).await?;
    match outcome {
        RetryOutcome::Scheduled(_) => Ok((StatusCode::ACCEPTED, Json(ScheduledDelivery { delivery_id: id }))),
        other => Err(problem(other)),
    }
}

async fn retry_in_database(
    state: &DeliveriesState,
    caller: &Caller,
    origin: &Origin,
    id: DeliveryId,
) -> Result<RetryOutcome, sqlx::Error> {
    let mut transaction = runtime::postgres::begin(&state.pool).await?;
    if store::is_erased(&mut transaction, caller.org_id).await? {
        return Ok(RetryOutcome::Unknown);
    }
    let outcome = schedule::retry_now(&mut transaction, caller.org_id, id, state.open_limits).await?;
    // Dropping the transaction takes back what another outcome has changed.
    let RetryOutcome::Scheduled(endpoint_id) = outcome else { return Ok(outcome) };
    let change = Change { org_id: caller.org_id, action: "delivery.retried", target: id.as_uuid() };
    let detail = json!({"endpoint_id": endpoint_id});
    audit::append(&mut transaction, Actor::Key(caller.key_id), Some(origin), change, &detail).await?;
    transaction.commit().await?;
    Ok(outcome)
}

fn problem(outcome: RetryOutcome) -> Problem {
    let conflict = |code, detail| Problem::new(StatusCode::CONFLICT, code, detail);
    match outcome {
        RetryOutcome::Scheduled(_) | RetryOutcome::Unknown => Problem::not_found(),
        RetryOutcome::InProgress => {
            Problem::unavailable("the last attempt of the delivery is not shown yet; try again", 1)
        }
        RetryOutcome::EndpointDeleted => conflict("endpoint_deleted", "the endpoint of the delivery was deleted"),
        RetryOutcome::EventNotKept => {
            conflict("event_not_kept", "the event of the delivery is no longer kept, so it cannot be sent again")
        }
        RetryOutcome::TooMuchOpen(reason) => conflict("too_many_open_deliveries", reason),
    }
}
