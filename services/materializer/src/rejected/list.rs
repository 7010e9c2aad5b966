//! `GET /rejected`: one page, newest first. Costs what it returns: the rows of an organization lie in this order in an
//! index.

use axum::Json;
use axum::extract::State;
use platform::http::{Problem, QueryParams, Timestamp};
use platform::seal::SealingKey;
use schemas::ids::OrgId;
use schemas::position::Place;
use serde::Serialize;
use sqlx::postgres::PgPool;
use tenancy::{Caller, Right};
use time::OffsetDateTime;

use super::cursor::Cursor;
use crate::inbox::{InboxState, position};

const DEFAULT_LIMIT: i64 = 50;
const MAX_LIMIT: i64 = 1000;

#[derive(Serialize)]
pub(super) struct Body {
    rejected: Vec<Item>,
    next_cursor: Option<String>,
    has_more: bool,
}

#[derive(Serialize)]
struct Item {
    /// Append time of the record.
    time: Timestamp,
    error_code: String,
    message: String,
    topic: String,
    partition: i32,
    offset: i64,
    /// As an event at this place would have it; null on a topic without events.
    position: Option<String>,
}

/// (appended_at, log_topic, log_partition, log_epoch, log_offset, error_class, message)
type Row = (OffsetDateTime, String, i32, i32, i64, String, String);

pub(super) async fn list(
    State(state): State<InboxState>,
    caller: Caller,
    params: QueryParams,
) -> Result<Json<Body>, Problem> {
    caller.require(Right::Consume)?;
    // What nobody can read has no type, so there is none among them that such a key may see.
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
        Cursor::open(key, organization, token).ok_or_else(unreadable)
    });
    let after = after.transpose()?;
    let mut rows = state.inbox.within_budget(read(&state.inbox.pool, organization, after, limit + 1)).await?;
    let has_more = i64::try_from(rows.len()).is_ok_and(|read| read > limit);
    if has_more {
        rows.pop();
    }
    let next_cursor = rows.last().filter(|_| has_more).map(|row| cursor_at(row).seal(key, organization));
    let rejected = rows.into_iter().map(|row| item(row, key, organization, &state.inbox.events_topic)).collect();
    Ok(Json(Body { rejected, next_cursor, has_more }))
}

fn cursor_at((appended_at, topic, partition, log_epoch, offset, ..): &Row) -> Cursor {
    Cursor {
        appended_at: *appended_at,
        topic: topic.clone(),
        partition: *partition,
        log_epoch: *log_epoch,
        offset: *offset,
    }
}

fn item(
    (time, topic, partition, log_epoch, offset, error_code, message): Row,
    key: &SealingKey,
    org: OrgId,
    events: &str,
) -> Item {
    let place = Place { log_epoch, partition, offset };
    let position = (topic == events).then(|| position::seal(key, org, place));
    Item { time: Timestamp(time), error_code, message, topic, partition, offset, position }
}

/// Up to `limit` rows behind the cursor's, from the newest without one.
async fn read(pool: &PgPool, organization: OrgId, after: Option<Cursor>, limit: i64) -> Result<Vec<Row>, sqlx::Error> {
    let Some(after) = after else {
        return sqlx::query_as(
            "SELECT appended_at, log_topic, log_partition, log_epoch, log_offset, error_class, message FROM rejected WHERE org_id = $1
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
