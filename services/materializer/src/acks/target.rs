//! Resolves the ids of an ack request to events of the view that the caller may see.

use std::collections::HashMap;

use http_server::{Problem, Timestamp};
use schemas::ids::{EventId, OrgId};
use sqlx::postgres::PgPool;
use tenancy::Caller;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::columns::column;
use crate::state::Inbox;

/// The event behind an id: itself, or the original of a duplicate.
#[derive(Debug, Clone, Copy)]
pub(super) struct AckTarget {
    pub(super) event_id: EventId,
    pub(super) acknowledged_at: Option<Timestamp>,
}

/// The events behind `ids`, by requested id. An absent id does not exist for this caller. Waits for events that this
/// instance accepted a moment ago.
pub(super) async fn find_targets(
    inbox: &Inbox,
    caller: &Caller,
    ids: &[EventId],
) -> Result<HashMap<EventId, AckTarget>, Problem> {
    let mut rows = caller.shares().read(read(&inbox.pool, caller.org_id, ids)).await?;
    if rows.len() < ids.len() && inbox.read_your_writes.catch_up(caller.org_id, &[]).await {
        rows = caller.shares().read(read(&inbox.pool, caller.org_id, ids)).await?;
    }
    let visible = rows.into_iter().filter(|row| caller.allows_event_type(&row.2));
    let target = |(requested, event_id, _, acknowledged_at): TargetRow| {
        let target =
            AckTarget { event_id: EventId::from_uuid(event_id), acknowledged_at: acknowledged_at.map(Timestamp) };
        (EventId::from_uuid(requested), target)
    };
    Ok(visible.map(target).collect())
}

/// (requested id, event id, event type, acknowledged_at)
type TargetRow = (Uuid, Uuid, String, Option<OffsetDateTime>);

async fn read(pool: &PgPool, organization: OrgId, ids: &[EventId]) -> Result<Vec<TargetRow>, sqlx::Error> {
    // The LIMIT makes the planner use one index lookup per id, whatever it estimates the table's size to be.
    sqlx::query_as(
        "SELECT requested.id, e.event_id, e.event_type, e.acknowledged_at
         FROM UNNEST($2::uuid[]) AS requested (id)
         CROSS JOIN LATERAL (
             SELECT event_id, event_type, acknowledged_at FROM view.events
             WHERE org_id = $1
               AND event_id = COALESCE((SELECT canonical_id FROM event_ids i
                                        WHERE i.org_id = $1 AND i.event_id = requested.id), requested.id)
             LIMIT 1
         ) AS e",
    )
    .bind(organization.as_uuid())
    .bind(column(ids, EventId::as_uuid))
    .fetch_all(pool)
    .await
}

/// The ack times of those of `events` that the view shows as acknowledged.
pub(super) async fn acknowledged_at_by_id(
    pool: &PgPool,
    organization: OrgId,
    events: &[EventId],
) -> Result<HashMap<EventId, Timestamp>, sqlx::Error> {
    let rows: Vec<(Uuid, OffsetDateTime)> = sqlx::query_as(
        "SELECT event_id, acknowledged_at FROM view.events
         WHERE org_id = $1 AND event_id = ANY($2) AND acknowledged_at IS NOT NULL",
    )
    .bind(organization.as_uuid())
    .bind(column(events, EventId::as_uuid))
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(id, at)| (EventId::from_uuid(id), Timestamp(at))).collect())
}
