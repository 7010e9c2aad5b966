//! `GET /events/{id}/status`: the status of an event's deliveries, each and all together.

use axum::Json;
use axum::extract::State;
use http_server::{PathId, Problem, Timestamp};
use schemas::ids::{DeliveryId, EndpointId, EventId, OrgId};
use serde::Serialize;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{FromRow, Row};
use tenancy::Consumer;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::event::find;
use super::request::DeliveryStatus;
use crate::state::InboxState;

/// Far above the endpoints that one event can match.
const MAX_DELIVERIES: i64 = 1_000;

/// The deliveries of an event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "event_id": "0192f0c1-2345-7abc-8def-0123456789ab",
    "status": "retrying",
    "attempts": 1,
    "retry_attempts": 0,
    "last_retry_at": null,
    "next_retry_at": "2026-11-21T09:00:30.500Z",
    "failed_at": null,
    "acknowledged_at": null,
    "deliveries": [{
        "delivery_id": "0192f0c1-2345-7abc-8def-0123456789ac",
        "event_id": "0192f0c1-2345-7abc-8def-0123456789ab",
        "endpoint_id": "0192f0c1-2345-7abc-8def-0123456789ad",
        "event_type": "order.created",
        "status": "retrying",
        "attempts": 1,
        "next_attempt_at": "2026-11-21T09:00:30.500Z",
        "last_status_code": 503,
        "last_error": null,
        "created_at": "2026-11-21T09:00:00.200Z"
    }]
}))]
pub(super) struct EventStatus {
    event_id: EventId,
    /// Summary of the deliveries.
    #[schema(value_type = DeliveryStatus)]
    status: String,
    /// Attempts of all deliveries.
    attempts: i32,
    /// Attempts after the first one of each delivery.
    retry_attempts: i32,
    last_retry_at: Option<Timestamp>,
    next_retry_at: Option<Timestamp>,
    /// When the last delivery failed for good.
    failed_at: Option<Timestamp>,
    acknowledged_at: Option<Timestamp>,
    deliveries: Vec<DeliveryItem>,
}

/// Status of one delivery.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes texts that the view has")]
enum OneDeliveryStatus {
    /// It waits for its first attempt.
    Pending,
    /// It waits for its next attempt.
    Retrying,
    Delivered,
    /// Its last attempt failed.
    Failed,
    /// The event was acknowledged, or the endpoint deleted, before an attempt succeeded.
    Cancelled,
}

/// A delivery: an event to an endpoint, over all attempts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
struct DeliveryItem {
    delivery_id: DeliveryId,
    event_id: EventId,
    endpoint_id: EndpointId,
    event_type: String,
    #[schema(value_type = OneDeliveryStatus)]
    status: String,
    attempts: i32,
    next_attempt_at: Option<Timestamp>,
    /// Status of the last answer; null if there was none.
    last_status_code: Option<i32>,
    /// Why there was no answer.
    last_error: Option<String>,
    created_at: Timestamp,
    #[serde(skip)]
    last_started_at: Timestamp,
}

impl FromRow<'_, PgRow> for DeliveryItem {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let id = |column| row.try_get::<Uuid, _>(column);
        let time = |column| row.try_get::<OffsetDateTime, _>(column).map(Timestamp);
        Ok(Self {
            delivery_id: DeliveryId::from_uuid(id("delivery_id")?),
            event_id: EventId::from_uuid(id("event_id")?),
            endpoint_id: EndpointId::from_uuid(id("endpoint_id")?),
            event_type: row.try_get("event_type")?,
            status: row.try_get("status")?,
            attempts: row.try_get("attempts")?,
            next_attempt_at: row.try_get::<Option<OffsetDateTime>, _>("next_attempt_at")?.map(Timestamp),
            last_status_code: row.try_get("last_status_code")?,
            last_error: row.try_get("last_error")?,
            created_at: time("created_at")?,
            last_started_at: time("last_started_at")?,
        })
    }
}

/// Read the status of an event's deliveries
#[utoipa::path(
    get, path = "/events/{id}/status", operation_id = "get_event_status", tag = "Consuming",
    params(("id" = EventId, Path, description = "Id of the event.")),
    responses((status = 200, description = "Its deliveries, each and all together.", body = EventStatus)),
    security(("key" = ["consume"])),
)]
pub(super) async fn status(
    Consumer(caller): Consumer,
    State(state): State<InboxState>,
    PathId(id): PathId<EventId>,
) -> Result<Json<EventStatus>, Problem> {
    let event = find(&state, &caller, id).await?;
    let event_id = EventId::from_uuid(event.event_id);
    let deliveries = caller.shares().read(read(&state.inbox.pool, caller.org_id, event_id)).await?;
    Ok(Json(EventStatus {
        event_id,
        status: event.delivery_status,
        attempts: event.attempts,
        acknowledged_at: event.acknowledged_at.map(Timestamp),
        retry_attempts: deliveries
            .iter()
            .fold(0_i32, |sum, delivery| sum.saturating_add((delivery.attempts - 1).max(0))),
        last_retry_at: latest(&deliveries, |delivery| delivery.attempts > 1),
        next_retry_at: deliveries.iter().filter(|d| d.status == "retrying").filter_map(|d| d.next_attempt_at).min(),
        failed_at: latest(&deliveries, |delivery| delivery.status == "failed"),
        deliveries,
    }))
}

fn latest(deliveries: &[DeliveryItem], counts: impl Fn(&DeliveryItem) -> bool) -> Option<Timestamp> {
    deliveries.iter().filter(|delivery| counts(delivery)).map(|delivery| delivery.last_started_at).max()
}

async fn read(pool: &PgPool, organization: OrgId, event: EventId) -> Result<Vec<DeliveryItem>, sqlx::Error> {
    sqlx::query_as(
        "SELECT delivery_id, event_id, endpoint_id, event_type, status, attempts, next_attempt_at, last_status_code,
                last_error, created_at, last_started_at
         FROM view.deliveries WHERE org_id = $1 AND event_id = $2 ORDER BY created_at, delivery_id LIMIT $3",
    )
    .bind(organization.as_uuid())
    .bind(event.as_uuid())
    .bind(MAX_DELIVERIES)
    .fetch_all(pool)
    .await
}
