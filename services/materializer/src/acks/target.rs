//! Which events an acknowledgement is about: what the view holds under the ids that were named, as far as the caller
//! may see it.

use std::collections::HashMap;

use platform::http::{Problem, Timestamp};
use schemas::ids::{EventId, OrgId};
use sqlx::postgres::PgPool;
use tenancy::Caller;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::inbox::state::Inbox;

/// The event behind an id: itself, or the original of a duplicate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) event_id: EventId,
    pub(super) acknowledged_at: Option<Timestamp>,
}

/// The events behind `ids`, by the id as it was named. What is absent does not exist for this caller. Events that this
/// instance accepted a moment ago are waited for.
pub(super) async fn find(inbox: &Inbox, caller: &Caller, ids: &[EventId]) -> Result<HashMap<EventId, Target>, Problem> {
    let mut rows = inbox.within_budget(read(&inbox.pool, caller.org_id, ids)).await?;
    if rows.len() < ids.len() && inbox.read_your_writes.catch_up(caller.org_id, &[]).await {
        rows = inbox.within_budget(read(&inbox.pool, caller.org_id, ids)).await?;
    }
    let visible = rows.into_iter().filter(|row| caller.may_see(&row.2));
    let target = |(named, event_id, _, acknowledged_at): Row| {
        let target = Target { event_id: EventId::from_uuid(event_id), acknowledged_at: acknowledged_at.map(Timestamp) };
        (EventId::from_uuid(named), target)
    };
    Ok(visible.map(target).collect())
}

/// Id as named, id of the event, its type, when it was acknowledged.
type Row = (Uuid, Uuid, String, Option<OffsetDateTime>);

async fn read(pool: &PgPool, organization: OrgId, ids: &[EventId]) -> Result<Vec<Row>, sqlx::Error> {
    let ids: Vec<Uuid> = ids.iter().map(EventId::as_uuid).collect();
    // The LIMIT keeps each look-up a probe of its own, whatever the planner believes of the table's size.
    sqlx::query_as(
        "SELECT named.id, e.event_id, e.event_type, e.acknowledged_at
         FROM UNNEST($2::uuid[]) AS named (id)
         CROSS JOIN LATERAL (
             SELECT event_id, event_type, acknowledged_at FROM view.events
             WHERE org_id = $1
               AND event_id = COALESCE((SELECT canonical_id FROM event_ids i
                                        WHERE i.org_id = $1 AND i.event_id = named.id), named.id)
             LIMIT 1
         ) AS e",
    )
    .bind(organization.as_uuid())
    .bind(ids)
    .fetch_all(pool)
    .await
}

/// When those of `events` that the view shows as acknowledged were.
pub(super) async fn acknowledged(
    pool: &PgPool,
    organization: OrgId,
    events: &[EventId],
) -> Result<HashMap<EventId, Timestamp>, sqlx::Error> {
    let ids: Vec<Uuid> = events.iter().map(EventId::as_uuid).collect();
    let rows: Vec<(Uuid, OffsetDateTime)> = sqlx::query_as(
        "SELECT event_id, acknowledged_at FROM view.events
         WHERE org_id = $1 AND event_id = ANY($2) AND acknowledged_at IS NOT NULL",
    )
    .bind(organization.as_uuid())
    .bind(ids)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(id, at)| (EventId::from_uuid(id), Timestamp(at))).collect())
}
