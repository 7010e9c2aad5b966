//! What happens to claimed rows: they get the outcome of their attempt.

use std::time::Duration;

use schemas::ids::{DeliveryId, EndpointId, EventId, OrgId};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{FromRow, Row};
use uuid::Uuid;

use crate::acks::{self, Success};
use crate::delivery::{RowUpdate, signed};
use crate::lane::{EndpointLane, LaneKey};
use crate::retry::schedule::lanes::{self, LaneDue};
use crate::retry::schedule::queues;
use crate::retry::schedule::usage::{self, UsageChange};

/// The outcome of an attempt that was made under a lease. It counts only while the row has that lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeasedOutcome {
    pub delivery_id: DeliveryId,
    pub lease: Uuid,
    pub update: RowUpdate,
}

/// Writes outcomes, and counts those of replays: appended, because the row of a replay would be a place where all
/// dispatchers wait for each other. A row that another instance has claimed since is not changed. `true`: a lane goes
/// on.
pub(crate) async fn write_outcomes(
    connection: &mut PgConnection,
    outcomes: &[LeasedOutcome],
) -> Result<bool, sqlx::Error> {
    if outcomes.is_empty() {
        return Ok(false);
    }
    // Sorted, so that two instances that write at once lock the rows in one order.
    let mut sorted: Vec<&LeasedOutcome> = outcomes.iter().collect();
    sorted.sort_unstable_by_key(|outcome| outcome.delivery_id);
    let due_after = |outcome: &&LeasedOutcome| outcome.update.due_after.map(|after| after.as_secs_f64());
    let changed: Vec<ChangedRow> = sqlx::query_as(
        "WITH changed AS (
             UPDATE delivery_schedule AS s
             SET state = t.state, attempts = t.attempts, lease_id = NULL,
                 due_at = COALESCE(now() + make_interval(secs => t.due_after), s.due_at),
                 finished_at = CASE WHEN t.due_after IS NULL THEN now() END,
                 batch_limit = COALESCE(t.batch_limit, s.batch_limit)
             FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::integer[], $5::double precision[], $6::integer[])
                  AS t (delivery_id, lease_id, state, attempts, due_after, batch_limit)
             WHERE s.delivery_id = t.delivery_id AND s.lease_id = t.lease_id AND s.state = 'pending'
             RETURNING s.state, s.replay_id, s.endpoint_id, s.org_id, s.event_id, s.accepted_at, s.lane, t.due_after,
                       CASE WHEN t.state = 'delivered'
                                 AND EXISTS (SELECT FROM endpoints p
                                             WHERE p.org_id = s.org_id AND p.ack_on_success AND p.deleted_at IS NULL)
                            THEN (SELECT e.endpoints_matched FROM delivery_events e
                                  WHERE e.log_partition = s.log_partition AND e.log_epoch = s.log_epoch
                                        AND e.log_offset = s.log_offset) END AS matched
         ), replayed AS (
             INSERT INTO replay_outcomes (replay_id, delivered, failed)
             SELECT replay_id, count(*) FILTER (WHERE state = 'delivered'), count(*) FILTER (WHERE state = 'failed')
             FROM changed WHERE replay_id IS NOT NULL AND state IN ('delivered', 'failed') GROUP BY replay_id
         )
         SELECT endpoint_id, org_id, event_id, accepted_at, lane, due_after, matched FROM changed",
    )
    .bind(sorted.iter().map(|outcome| outcome.delivery_id.as_uuid()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|outcome| outcome.lease).collect::<Vec<_>>())
    .bind(sorted.iter().map(|outcome| outcome.update.state.as_str()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|outcome| signed(outcome.update.attempts)).collect::<Vec<_>>())
    .bind(sorted.iter().map(due_after).collect::<Vec<_>>())
    .bind(sorted.iter().map(|outcome| outcome.update.batch_limit.map(signed)).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    let mut change = UsageChange::default();
    changed.iter().filter(|row| row.is_finished()).for_each(|row| change.add_rows(row.org_id, -1));
    // The next row of a lane is due when the first one is finished.
    let lanes_due: Vec<LaneDue> = changed.iter().filter_map(ChangedRow::lane_due).collect();
    let due = changed.iter().filter_map(|row| Some((row.endpoint, row.org_id, row.due_after?)));
    lanes::lower(connection, lanes_due.iter().copied()).await?;
    queues::lower(connection, due.chain(lanes_due.iter().map(LaneDue::queue_due))).await?;
    usage::apply(connection, change).await?;
    acks::store(connection, &changed.iter().filter_map(|row| row.success).collect::<Vec<_>>()).await?;
    Ok(changed.iter().any(|row| row.lane.is_some() && row.is_finished()))
}

/// A row after the outcome of its attempt.
struct ChangedRow {
    endpoint: EndpointId,
    org_id: OrgId,
    lane: Option<LaneKey>,
    /// `None`: it is finished.
    due_after: Option<Duration>,
    /// In an organization that acknowledges by success.
    success: Option<Success>,
}

impl ChangedRow {
    fn is_finished(&self) -> bool {
        self.due_after.is_none()
    }

    fn lane_due(&self) -> Option<LaneDue> {
        let lane = EndpointLane { endpoint: self.endpoint, key: self.lane? };
        Some(LaneDue { lane, org_id: self.org_id, after: self.due_after.unwrap_or_default() })
    }
}

impl FromRow<'_, PgRow> for ChangedRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let endpoint = EndpointId::from_uuid(row.try_get("endpoint_id")?);
        let org_id = OrgId::from_uuid(row.try_get("org_id")?);
        let event_id = EventId::from_uuid(row.try_get("event_id")?);
        let accepted_at = row.try_get("accepted_at")?;
        let matched: Option<i32> = row.try_get("matched")?;
        let matched = matched.and_then(|matched| u32::try_from(matched).ok());
        Ok(Self {
            endpoint,
            org_id,
            lane: row.try_get::<Option<Uuid>, _>("lane")?.map(LaneKey::from_uuid),
            due_after: row.try_get::<Option<f64>, _>("due_after")?.map(Duration::from_secs_f64),
            success: matched.map(|matched| Success { org_id, event_id, endpoint, matched, accepted_at }),
        })
    }
}
