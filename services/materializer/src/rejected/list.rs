//! `GET /rejected`: one page, newest first. An index has the rows of an organization in this order, so the statement
//! reads only the rows of the page.

use axum::Json;
use axum::extract::State;
use http_server::{Problem, QueryParams, Timestamp};
use runtime::seal::SealingKey;
use schemas::ids::OrgId;
use schemas::position::RecordPosition;
use schemas::unix_time::to_millis;
use serde::Serialize;
use sqlx::postgres::PgPool;
use tenancy::Consumer;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::cursor::RejectedCursor;
use crate::position_token;
use crate::state::InboxState;

const DEFAULT_LIMIT: i64 = 50;
const MAX_LIMIT: i64 = 1000;

/// Rejected records, newest first.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "rejected": [{
        "time": "2026-11-21T09:00:00.123Z",
        "error_code": "invalid_event",
        "message": "event_type is required",
        "topic": "triggers.events.v1",
        "position": "q83vEjRWeJA"
    }],
    "next_cursor": null,
    "has_more": false
}))]
pub(super) struct RejectedPage {
    rejected: Vec<RejectedItem>,
    /// Continues after this page; null without more.
    next_cursor: Option<String>,
    has_more: bool,
}

#[derive(Serialize, ToSchema)]
struct RejectedItem {
    /// Append time of the record.
    time: Timestamp,
    /// Why it was rejected, for programs.
    error_code: String,
    /// Why it was rejected, for a person.
    message: String,
    /// The topic to which it was written.
    topic: String,
    /// Position token: where the record is, without what an offset says of other tenants. On the topic of events it is
    /// the token that an event there would have.
    position: String,
}

/// (appended_at, log_topic, log_partition, log_epoch, log_offset, error_class, message)
type ListedRow = (OffsetDateTime, String, i32, i32, i64, String, String);

/// List rejected records
///
/// Records that a native producer wrote for this organization and that could not become events. Newest first.
#[utoipa::path(
    get, path = "/rejected", operation_id = "list_rejected", tag = "Consuming",
    params(
        ("limit" = Option<i64>, Query, description = "Records on a page.", minimum = 1, maximum = 1000, example = 50),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
    ),
    responses((status = 200, description = "A page.", body = RejectedPage)),
    security(("key" = ["consume"])),
)]
pub(super) async fn list(
    Consumer(caller): Consumer,
    State(state): State<InboxState>,
    params: QueryParams,
) -> Result<Json<RejectedPage>, Problem> {
    // A record that cannot be read has no event type, so such a key may see none of them.
    if caller.event_types.is_some() {
        return Err(Problem::forbidden(
            "a key that is restricted to event types may not see rejected records: they have none",
        ));
    }
    let limit = params.parse_in_range("limit", 1..=MAX_LIMIT)?.unwrap_or(DEFAULT_LIMIT);
    let organization = caller.org_id;
    let key = &state.inbox.sealing;
    let after = params.one("cursor")?.map(|token| {
        let unreadable = || QueryParams::invalid("cursor", "is not a cursor that this organization was given");
        RejectedCursor::open(key, organization, token).ok_or_else(unreadable)
    });
    let after = after.transpose()?;
    let mut rows = caller.shares().read(read(&state.inbox.pool, organization, after, limit + 1)).await?;
    let has_more = i64::try_from(rows.len()).is_ok_and(|read| read > limit);
    if has_more {
        rows.pop();
    }
    let next_cursor = rows.last().filter(|_| has_more).map(|row| cursor_at(row).seal(key, organization));
    let rejected = rows.into_iter().map(|row| item(row, key, organization, &state.inbox.events_topic)).collect();
    Ok(Json(RejectedPage { rejected, next_cursor, has_more }))
}

fn cursor_at((appended_at, topic, partition, log_epoch, offset, ..): &ListedRow) -> RejectedCursor {
    RejectedCursor {
        appended_at: *appended_at,
        topic: topic.clone(),
        partition: *partition,
        log_epoch: *log_epoch,
        offset: *offset,
    }
}

fn item(
    (time, topic, partition, _, offset, error_code, message): ListedRow,
    key: &SealingKey,
    org: OrgId,
    events: &str,
) -> RejectedItem {
    let record = RecordPosition { partition, offset, appended_at_ms: to_millis(time) };
    let position = if topic == events {
        position_token::tokens(key, org).seal(&record.to_bytes())
    } else {
        position_token::seal_elsewhere(key, org, &topic, record)
    };
    RejectedItem { time: Timestamp(time), error_code, message, topic, position }
}

/// Up to `limit` rows after the cursor's row; from the newest row without a cursor.
async fn read(
    pool: &PgPool,
    organization: OrgId,
    after: Option<RejectedCursor>,
    limit: i64,
) -> Result<Vec<ListedRow>, sqlx::Error> {
    let Some(after) = after else {
        return sqlx::query_as(
            "SELECT appended_at, log_topic, log_partition, log_epoch, log_offset, error_class, message
             FROM rejected WHERE org_id = $1
             ORDER BY appended_at DESC, log_topic DESC, log_partition DESC, log_epoch DESC, log_offset DESC LIMIT $2",
        )
        .bind(organization.as_uuid())
        .bind(limit)
        .fetch_all(pool)
        .await;
    };
    sqlx::query_as(
        "SELECT appended_at, log_topic, log_partition, log_epoch, log_offset, error_class, message FROM rejected
         WHERE org_id = $1 AND (appended_at, log_topic, log_partition, log_epoch, log_offset) < ($3, $4, $5, $6, $7)
         ORDER BY appended_at DESC, log_topic DESC, log_partition DESC, log_epoch DESC, log_offset DESC LIMIT $2",
    )
    .bind(organization.as_uuid())
    .bind(limit)
    .bind(after.appended_at)
    .bind(after.topic)
    .bind(after.partition)
    .bind(after.log_epoch)
    .bind(after.offset)
    .fetch_all(pool)
    .await
}
