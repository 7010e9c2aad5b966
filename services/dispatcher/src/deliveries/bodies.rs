//! Deliveries in JSON.

use http_server::Timestamp;
use schemas::ids::{BatchId, DeliveryId, EndpointId, EventId};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::cursor::DeliveryCursor;
use super::request::DeliveryState;

/// A page of deliveries, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryPage, example = json!({
    "deliveries": [{
        "delivery_id": "0192f0c1-2345-7abc-8def-0123456789ac",
        "event_id": "0192f0c1-2345-7abc-8def-0123456789ab",
        "endpoint_id": "0192f0c1-2345-7abc-8def-0123456789ad",
        "event_type": "order.created",
        "status": "retrying",
        "attempts": 1,
        "next_attempt_at": "2026-11-21T09:00:30.500Z",
        "last_status_code": 503,
        "last_error": "the endpoint answered 503",
        "created_at": "2026-11-21T09:00:00.200Z"
    }],
    "next_cursor": null,
    "has_more": false
}))]
pub(super) struct PageBody {
    pub deliveries: Vec<DeliveryItem>,
    /// Continues after this page; null without more.
    pub next_cursor: Option<String>,
    pub has_more: bool,
}

/// A delivery of which an attempt is due.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ScheduledDelivery, example = json!({"delivery_id": "0192f0c1-2345-7abc-8def-0123456789ac"}))]
pub(crate) struct ScheduledDelivery {
    pub delivery_id: DeliveryId,
}

/// A delivery: an event to an endpoint, over all attempts.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ListedDelivery, example = json!({
    "delivery_id": "0192f0c1-2345-7abc-8def-0123456789ac",
    "event_id": "0192f0c1-2345-7abc-8def-0123456789ab",
    "endpoint_id": "0192f0c1-2345-7abc-8def-0123456789ad",
    "event_type": "order.created",
    "status": "retrying",
    "attempts": 1,
    "next_attempt_at": "2026-11-21T09:00:30.500Z",
    "last_status_code": 503,
    "last_error": "the endpoint answered 503",
    "created_at": "2026-11-21T09:00:00.200Z",
    "attempts_log": [{
        "attempt": 1,
        "started_at": "2026-11-21T09:00:00.200Z",
        "status_code": 503,
        "latency_ms": 31,
        "connect_ms": 1.25,
        "send_ms": 0.09,
        "wait_ms": 29.7,
        "error": "the endpoint answered 503",
        "response_excerpt": "busy",
        "remote_address": "2606:4700::6810:84e5",
        "batch_id": null
    }]
}))]
pub(super) struct DeliveryItem {
    pub delivery_id: DeliveryId,
    pub event_id: EventId,
    pub endpoint_id: EndpointId,
    pub event_type: String,
    #[schema(value_type = DeliveryState)]
    pub status: String,
    /// Attempts that were made.
    pub attempts: i32,
    /// When the next attempt is due. Null: none is planned, or it is being made.
    pub next_attempt_at: Option<Timestamp>,
    /// Status of the last answer; null if there was none.
    pub last_status_code: Option<i32>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// Start of the first attempt; before it, when the event was accepted.
    pub created_at: Timestamp,
    /// Its attempts, the first one first. Only of a single delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub attempts_log: Option<Vec<AttemptItem>>,
}

impl DeliveryItem {
    /// Lists are in descending order of it.
    pub(super) fn sort_key(&self) -> DeliveryCursor {
        DeliveryCursor { created_at: self.created_at.0, delivery_id: self.delivery_id }
    }
}

impl FromRow<'_, PgRow> for DeliveryItem {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let id = |column| row.try_get::<Uuid, _>(column);
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
            created_at: Timestamp(row.try_get("created_at")?),
            attempts_log: None,
        })
    }
}

/// One attempt. The receiver knows it by the `webhook-id`, which is the event's id or that of the batch, and the
/// `webhook-timestamp`, which is the second in which it started.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = DeliveryAttempt)]
pub(super) struct AttemptItem {
    /// 1 for the first one.
    attempt: i32,
    started_at: Timestamp,
    /// Status of the answer; null if there was none.
    status_code: Option<i32>,
    /// From the start of the request to the end of the response or the failure.
    latency_ms: i64,
    /// The part of it for resolving the name and opening the connection. Null: the connection was reused, or not known.
    connect_ms: Option<f64>,
    /// The part of it for writing the request. Null: not known.
    send_ms: Option<f64>,
    /// The part of it from the end of the request to the head of the response. Null: not known.
    wait_ms: Option<f64>,
    /// Why it failed.
    error: Option<String>,
    /// The first 4 KiB of the response's body. Null: it was empty, or came from an address that is not public.
    response_excerpt: Option<String>,
    /// Address that the request was sent to. Null: it is not public, or there was no response.
    remote_address: Option<String>,
    /// The `webhook-id` of a request with a batch of events, whose answer and times these are. Null: it had this event
    /// only.
    batch_id: Option<BatchId>,
}

impl FromRow<'_, PgRow> for AttemptItem {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let milliseconds =
            |column| row.try_get::<Option<i64>, _>(column).map(|micros| micros.map(|micros| micros as f64 / 1000.0));
        Ok(Self {
            attempt: row.try_get("attempt")?,
            started_at: Timestamp(row.try_get("started_at")?),
            status_code: row.try_get("status_code")?,
            latency_ms: row.try_get("latency_ms")?,
            connect_ms: milliseconds("connect_us")?,
            send_ms: milliseconds("send_us")?,
            wait_ms: milliseconds("wait_us")?,
            error: row.try_get("error")?,
            response_excerpt: row.try_get("response_excerpt")?,
            remote_address: row.try_get("remote_address")?,
            batch_id: row.try_get::<Option<Uuid>, _>("batch_id")?.map(BatchId::from_uuid),
        })
    }
}
