//! `GET /deliveries/{id}`: one delivery with its attempts.

use axum::Json;
use axum::extract::State;
use http_server::{PathId, Problem};
use schemas::ids::DeliveryId;
use tenancy::Manager;

use super::bodies::DeliveryItem;
use super::{DeliveriesState, rows};

/// Read a delivery
///
/// With its attempts. It may take a moment until an attempt is shown.
#[utoipa::path(
    get, path = "/deliveries/{id}", operation_id = "get_delivery", tag = "Webhooks",
    params(("id" = DeliveryId, Path, description = "Id of the delivery.")),
    responses((status = 200, description = "The delivery.", body = DeliveryItem)),
    security(("key" = ["manage"])),
)]
pub(super) async fn show(
    Manager(caller): Manager,
    State(state): State<DeliveriesState>,
    PathId(id): PathId<DeliveryId>,
) -> Result<Json<DeliveryItem>, Problem> {
    let found = caller
        .shares()
        .read::<_, sqlx::Error>(async {
            let Some(mut delivery) = rows::one(&state.pool, caller.org_id, id).await? else { return Ok(None) };
            delivery.attempts_log = Some(rows::attempts(&state.pool, caller.org_id, id).await?);
            Ok(Some(delivery))
        })
        .await?;
    found.filter(|item| caller.allows_event_type(&item.event_type)).map(Json).ok_or_else(Problem::not_found)
}
