//! `POST /endpoints/filter/test`: which of the last events an endpoint with this filter would have got.

use axum::Json;
use axum::extract::State;
use http_server::{FieldError, JsonBody, Problem, Timestamp};
use schemas::events_in_log_order;
use schemas::ids::{EventId, OrgId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::EndpointsState;
use super::event_types::{check_pattern, matches};
use super::filter::payload::Payload;
use super::filter::{self, Verdict};
use super::input::MAX_PATTERNS;
use super::managers::EndpointWriter;
use super::problems::{failed, invalid};

const DEFAULT_LIMIT: u32 = 20;
const MAX_LIMIT: u32 = 100;
/// Payloads of one request. The newest event always fits.
const MAX_PAYLOAD_BYTES: i64 = 8 * 1024 * 1024;

/// A filter to test. `null` is the same as absent.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FilterTest, example = json!({"filter": {"path": "order.total", "gte": 100}, "limit": 20}))]
pub(super) struct FilterTest {
    /// As for an endpoint.
    #[schema(value_type = Object)]
    filter: Value,
    /// As for an endpoint. Empty or absent: all.
    #[schema(max_items = 100)]
    event_types: Option<Vec<String>>,
    /// How many of the last events are examined. Default 20.
    #[schema(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

/// What the filter says of the last events.
#[derive(Serialize, ToSchema)]
#[schema(as = FilterTestResult, example = json!({
    "examined": 1,
    "matched": 1,
    "events": [{
        "event_id": "0192f0c1-2345-7abc-8def-0123456789ab",
        "event_type": "order.created",
        "accepted_at": "2026-11-21T09:00:00.123Z",
        "matched": true,
        "conditions": [{"condition": "", "holds": true}]
    }]
}))]
pub(super) struct FilterTestResult {
    /// Fewer than `limit` if there are fewer events, or if their payloads are larger than 8 MiB.
    examined: usize,
    matched: usize,
    /// Newest first.
    events: Vec<TestedEvent>,
}

#[derive(Serialize, ToSchema)]
struct TestedEvent {
    event_id: EventId,
    event_type: String,
    accepted_at: Timestamp,
    /// Whether its type and its payload match.
    matched: bool,
    /// Whether each condition of the filter holds, in their order.
    conditions: Vec<Verdict>,
}

/// Test a filter
///
/// Examines the last events of the organization, and changes nothing.
#[utoipa::path(
    post, path = "/endpoints/filter/test", operation_id = "test_filter", tag = "Webhooks",
    request_body = FilterTest,
    responses((status = 200, description = "What the filter says of the last events.", body = FilterTestResult)),
    security(("key" = ["manage"])),
    extensions(("x-error-codes" = json!(["invalid_endpoint"]))),
)]
pub(super) async fn test_filter(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<EndpointsState>,
    JsonBody(body): JsonBody<FilterTest>,
) -> Result<Json<FilterTestResult>, Problem> {
    let limit = body.limit.unwrap_or(DEFAULT_LIMIT);
    let patterns = body.event_types.unwrap_or_default();
    let mut errors = Vec::new();
    if !(1..=MAX_LIMIT).contains(&limit) {
        errors.push(FieldError::new("limit", format!("must be from 1 to {MAX_LIMIT}")));
    }
    if patterns.len() > MAX_PATTERNS {
        errors.push(FieldError::new("event_types", format!("must name at most {MAX_PATTERNS} types")));
    } else if let Some(reason) = patterns.iter().find_map(|pattern| check_pattern(pattern).err()) {
        errors.push(FieldError::new("event_types", reason));
    }
    let filter = match filter::read(&body.filter, "filter") {
        Ok(filter) if errors.is_empty() => filter,
        Ok(_) => return Err(invalid(errors)),
        Err(more) => return Err(invalid(errors.into_iter().chain(more).collect())),
    };
    let permit = caller.shares().take_read().await?;
    let stored = last_events(&state.pool, caller.org_id, limit).await.map_err(failed)?;
    let mut events = Vec::with_capacity(stored.len());
    for event in stored {
        let (holds, conditions) = {
            let payload = Payload::new(&event.payload, event.is_encoded);
            (filter.holds(&payload), filter.verdicts(&payload))
        };
        events.push(TestedEvent {
            event_id: event.event_id,
            matched: holds && matches(&patterns, &event.event_type),
            event_type: event.event_type,
            accepted_at: Timestamp(event.accepted_at),
            conditions,
        });
        // A large payload takes milliseconds.
        tokio::task::yield_now().await;
    }
    drop(permit);
    let matched = events.iter().filter(|event| event.matched).count();
    Ok(Json(FilterTestResult { examined: events.len(), matched, events }))
}

struct LastEvent {
    event_id: EventId,
    event_type: String,
    accepted_at: OffsetDateTime,
    payload: String,
    is_encoded: bool,
}

/// The newest events of an organization, newest first: those with the highest positions in its partition. An
/// organization has events in two after partitions were added; then the times decide between them.
async fn last_events(pool: &PgPool, org_id: OrgId, limit: u32) -> Result<Vec<LastEvent>, sqlx::Error> {
    let rows: Vec<(Uuid, String, OffsetDateTime, String, bool)> = sqlx::query_as(concat!(
        "WITH RECURSIVE partitions AS (",
        events_in_log_order!(
            SELECT "e.log_partition" FROM "contract.events" WHERE "e.org_id = $1" ORDER BY "log_partition" LIMIT "1"
        ),
        " UNION ALL SELECT ",
        events_in_log_order!(
            SELECT "e.log_partition" FROM "contract.events"
            WHERE "e.org_id = $1 AND e.log_partition > p.log_partition" ORDER BY "log_partition" LIMIT "1"
        ),
        " FROM partitions p WHERE p.log_partition IS NOT NULL
         ), newest AS (
             SELECT e.* FROM partitions p CROSS JOIN LATERAL ",
        events_in_log_order!(
            SELECT "e.*" FROM "contract.events" WHERE "e.org_id = $1 AND e.log_partition = p.log_partition"
            ORDER BY "log_epoch DESC, log_offset DESC" LIMIT "$2"
        ),
        " AS e
         ), ordered AS (
             SELECT event_id, event_type, accepted_at, payload::text AS payload,
                    payload_encoding IS NOT NULL AS is_encoded,
                    row_number() OVER (ORDER BY accepted_at DESC, log_partition DESC, log_epoch DESC, log_offset DESC)
                        AS nth
             FROM newest
         ), measured AS (
             SELECT *, sum(octet_length(payload)) OVER (ORDER BY nth) AS bytes FROM ordered WHERE nth <= $2
         )
         SELECT event_id, event_type, accepted_at, payload, is_encoded FROM measured WHERE bytes <= $3 ORDER BY nth",
    ))
    .bind(org_id.as_uuid())
    .bind(i64::from(limit))
    .bind(MAX_PAYLOAD_BYTES)
    .fetch_all(pool)
    .await?;
    let event = |(id, event_type, accepted_at, payload, is_encoded)| LastEvent {
        event_id: EventId::from_uuid(id),
        event_type,
        accepted_at,
        payload,
        is_encoded,
    };
    Ok(rows.into_iter().map(event).collect())
}
