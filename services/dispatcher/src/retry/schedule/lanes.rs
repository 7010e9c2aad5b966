//! Lanes of ordered endpoints: when something of a lane is due, and which row of it is the first.
//!
//! The first row of a lane is the unfinished one with the lowest log position. If a delivery of the lane that waits for
//! its duplicate decision is before it, nothing of the lane is due; nor while another row of it is in flight: after a
//! crash, a record can be read again whose delivery was finished, and get a row before that one.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use schemas::ids::{EndpointId, OrgId};
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

use crate::lane::{EndpointLane, LaneKey};
use crate::retry::schedule::claim::{ClaimedRow, Wanted};

/// A lane that gets due after a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneDue {
    pub lane: EndpointLane,
    pub org_id: OrgId,
    pub after: Duration,
}

impl LaneDue {
    pub(super) fn at_once(endpoint: Uuid, lane: Uuid, org_id: Uuid) -> Self {
        let lane = EndpointLane { endpoint: EndpointId::from_uuid(endpoint), key: LaneKey::from_uuid(lane) };
        Self { lane, org_id: OrgId::from_uuid(org_id), after: Duration::ZERO }
    }

    pub(super) fn queue_due(&self) -> (EndpointId, OrgId, Duration) {
        (self.lane.endpoint, self.org_id, self.after)
    }
}

/// Makes lanes due after these times at the latest. Who changes which row of a lane is the first, or when it is due,
/// calls this in the same transaction, and lowers the queues of the endpoints after it.
pub(super) async fn lower(
    connection: &mut PgConnection,
    due: impl Iterator<Item = LaneDue>,
) -> Result<(), sqlx::Error> {
    // In this order, so that two transactions lock lanes in one order.
    let mut earliest: BTreeMap<EndpointLane, (OrgId, Duration)> = BTreeMap::new();
    for LaneDue { lane, org_id, after } in due {
        let entry = earliest.entry(lane).or_insert((org_id, after));
        entry.1 = entry.1.min(after);
    }
    if earliest.is_empty() {
        return Ok(());
    }
    // A lane that is not made due earlier is locked too: a claim that has not seen the new rows must not delete it.
    sqlx::query(
        "INSERT INTO ordered_lanes AS l (endpoint_id, lane, org_id, due_at)
         SELECT endpoint_id, lane, org_id, now() + make_interval(secs => after)
         FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::double precision[]) AS t (endpoint_id, lane, org_id, after)
         ON CONFLICT (endpoint_id, lane) DO UPDATE SET due_at = EXCLUDED.due_at WHERE EXCLUDED.due_at < l.due_at",
    )
    .bind(earliest.keys().map(|lane| lane.endpoint.as_uuid()).collect::<Vec<_>>())
    .bind(earliest.keys().map(|lane| lane.key.as_uuid()).collect::<Vec<_>>())
    .bind(earliest.values().map(|(org_id, _)| org_id.as_uuid()).collect::<Vec<_>>())
    .bind(earliest.values().map(|(_, after)| after.as_secs_f64()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// A lane that this transaction has locked, and the lease of a claim.
struct LockedLane {
    endpoint: Uuid,
    lane: Uuid,
    lease: Duration,
}

/// Claims the first rows of lanes that are due, of each lane one. Lanes that another instance has locked are left out.
/// The queues of the endpoints are locked.
///
/// Each step is a statement of its own: it sees what was committed before the lanes were locked. What commits later
/// makes the lane due again.
pub(crate) async fn claim_first(
    connection: &mut PgConnection,
    wanted: &[Wanted],
) -> Result<Vec<ClaimedRow>, sqlx::Error> {
    let locked = lock_due(connection, wanted).await?;
    if locked.is_empty() {
        return Ok(Vec::new());
    }
    let claimed = claim_locked(connection, &locked).await?;
    reset(connection, &locked).await?;
    Ok(claimed)
}

async fn lock_due(connection: &mut PgConnection, wanted: &[Wanted]) -> Result<Vec<LockedLane>, sqlx::Error> {
    let locked: Vec<(Uuid, Uuid, f64)> = sqlx::query_as(
        "SELECT due.endpoint_id, due.lane, wanted.lease_seconds
         FROM UNNEST($1::uuid[], $2::bigint[], $3::double precision[]) AS wanted (endpoint_id, max_rows, lease_seconds)
         CROSS JOIN LATERAL (
             SELECT l.endpoint_id, l.lane FROM ordered_lanes l
             WHERE l.endpoint_id = wanted.endpoint_id AND l.due_at <= now()
             ORDER BY l.due_at LIMIT wanted.max_rows FOR UPDATE SKIP LOCKED
         ) AS due",
    )
    .persistent(false)
    .bind(wanted.iter().map(|one| one.endpoint.as_uuid()).collect::<Vec<_>>())
    .bind(wanted.iter().map(|one| i64::try_from(one.max_rows).unwrap_or(i64::MAX)).collect::<Vec<_>>())
    .bind(wanted.iter().map(|one| one.lease.as_secs_f64()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let lane = |(endpoint, lane, lease)| LockedLane { endpoint, lane, lease: Duration::from_secs_f64(lease) };
    Ok(locked.into_iter().map(lane).collect())
}

/// The first row of each lane of `t`, what waits for its duplicate decision before it, and what is in flight. The plan
/// reads one entry of each index, however many rows a lane has.
macro_rules! first_rows {
    ($columns:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM UNNEST($1::uuid[], $2::uuid[], $3::double precision[]) AS t (endpoint_id, lane, lease_seconds)
             LEFT JOIN LATERAL (
                 SELECT d.delivery_id, d.due_at, d.log_epoch, d.log_partition, d.log_offset FROM delivery_schedule d
                 WHERE d.endpoint_id = t.endpoint_id AND d.lane = t.lane AND d.state = 'pending' AND d.refusal IS NULL
                 ORDER BY d.log_epoch, d.log_partition, d.log_offset LIMIT 1
             ) AS head ON true
             LEFT JOIN LATERAL (
                 SELECT a.log_epoch, a.log_partition, a.log_offset FROM deliveries_awaiting_dedup a
                 WHERE a.endpoint_id = t.endpoint_id AND a.lane = t.lane
                 ORDER BY a.log_epoch, a.log_partition, a.log_offset LIMIT 1
             ) AS undecided ON (undecided.log_epoch, undecided.log_partition, undecided.log_offset)
                               < (head.log_epoch, head.log_partition, head.log_offset)
             LEFT JOIN LATERAL (
                 SELECT d.due_at FROM delivery_schedule d
                 WHERE d.endpoint_id = t.endpoint_id AND d.lane = t.lane AND d.state = 'pending' AND d.refusal IS NULL
                       AND d.lease_id IS NOT NULL
                 ORDER BY d.due_at DESC LIMIT 1
             ) AS in_flight ON true"
        )
    };
}

/// The first rows are locked by their ids: another one of their lane is never taken instead.
pub(super) const CLAIM_LOCKED: &str = super::claim::update_claimed!(concat!(
    "SELECT d.delivery_id, first.lease_seconds
     FROM (",
    first_rows!(
        "head.delivery_id, t.lease_seconds,
         undecided.log_offset IS NULL AND COALESCE(in_flight.due_at <= now(), true) AS is_free"
    ),
    ") AS first JOIN delivery_schedule d ON d.delivery_id = first.delivery_id
     WHERE first.is_free AND d.state = 'pending' AND d.refusal IS NULL AND d.due_at <= now()
     FOR UPDATE OF d SKIP LOCKED"
));

async fn claim_locked(connection: &mut PgConnection, lanes: &[LockedLane]) -> Result<Vec<ClaimedRow>, sqlx::Error> {
    sqlx::query_as(CLAIM_LOCKED)
        .persistent(false)
        .bind(lanes.iter().map(|one| one.endpoint).collect::<Vec<_>>())
        .bind(lanes.iter().map(|one| one.lane).collect::<Vec<_>>())
        .bind(lanes.iter().map(|one| one.lease.as_secs_f64()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
}

const RESET: &str = concat!(
    "WITH first AS MATERIALIZED (",
    first_rows!(
        "t.endpoint_id, t.lane, greatest(head.due_at, in_flight.due_at) AS due_at,
         undecided.log_offset IS NOT NULL AS is_undecided"
    ),
    "), emptied AS (
         DELETE FROM ordered_lanes l USING first
         WHERE l.endpoint_id = first.endpoint_id AND l.lane = first.lane AND first.due_at IS NULL
     )
     UPDATE ordered_lanes l SET due_at = CASE WHEN first.is_undecided THEN 'infinity' ELSE first.due_at END
     FROM first
     WHERE l.endpoint_id = first.endpoint_id AND l.lane = first.lane AND first.due_at IS NOT NULL"
);

/// Sets when locked lanes are due next, and deletes those without rows.
async fn reset(connection: &mut PgConnection, lanes: &[LockedLane]) -> Result<(), sqlx::Error> {
    sqlx::query(RESET)
        .persistent(false)
        .bind(lanes.iter().map(|one| one.endpoint).collect::<Vec<_>>())
        .bind(lanes.iter().map(|one| one.lane).collect::<Vec<_>>())
        .bind(lanes.iter().map(|one| one.lease.as_secs_f64()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

const CLAIM_ANY: &str = super::claim::update_claimed!(
    "SELECT picked.delivery_id, wanted.lease_seconds
     FROM UNNEST($1::uuid[], $2::bigint[], $3::double precision[]) AS wanted (endpoint_id, max_rows, lease_seconds)
     CROSS JOIN LATERAL (
         SELECT d.delivery_id FROM delivery_schedule d
         WHERE d.endpoint_id = wanted.endpoint_id AND d.lane IS NOT NULL AND d.state = 'pending' AND d.refusal IS NULL
               AND (d.lease_id IS NULL OR d.due_at <= now())
         ORDER BY d.lane, d.log_epoch, d.log_partition, d.log_offset
         LIMIT wanted.max_rows FOR UPDATE SKIP LOCKED
     ) AS picked"
);

/// Claims rows of lanes in any order: their endpoint is deleted, so nothing is sent.
pub(super) async fn claim_any(
    connection: &mut PgConnection,
    wanted: &[Wanted],
) -> Result<Vec<ClaimedRow>, sqlx::Error> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_as(CLAIM_ANY)
        .persistent(false)
        .bind(wanted.iter().map(|one| one.endpoint.as_uuid()).collect::<Vec<_>>())
        .bind(wanted.iter().map(|one| i64::try_from(one.max_rows).unwrap_or(i64::MAX)).collect::<Vec<_>>())
        .bind(wanted.iter().map(|one| one.lease.as_secs_f64()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
}

/// Those of these lanes that have no unfinished row, and none that waits for its duplicate decision.
pub(crate) async fn free_lanes(pool: &PgPool, lanes: &[EndpointLane]) -> Result<HashSet<EndpointLane>, sqlx::Error> {
    let free: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "SELECT t.endpoint_id, t.lane FROM UNNEST($1::uuid[], $2::uuid[]) AS t (endpoint_id, lane)
         WHERE NOT EXISTS (SELECT FROM delivery_schedule d
                           WHERE d.endpoint_id = t.endpoint_id AND d.lane = t.lane AND d.state = 'pending'
                                 AND d.refusal IS NULL)
               AND NOT EXISTS (SELECT FROM deliveries_awaiting_dedup a
                               WHERE a.endpoint_id = t.endpoint_id AND a.lane = t.lane)",
    )
    .persistent(false)
    .bind(lanes.iter().map(|lane| lane.endpoint.as_uuid()).collect::<Vec<_>>())
    .bind(lanes.iter().map(|lane| lane.key.as_uuid()).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    let lane =
        |(endpoint, key)| EndpointLane { endpoint: EndpointId::from_uuid(endpoint), key: LaneKey::from_uuid(key) };
    Ok(free.into_iter().map(lane).collect())
}
