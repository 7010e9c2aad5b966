//! What happens to claimed rows: they get the outcome of their attempt.

use std::time::Duration;

use schemas::ids::{DeliveryId, EndpointId, OrgId};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::delivery::{RowUpdate, signed};
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

/// Writes outcomes. A row that another instance has claimed since is not changed. `true`: a lane goes on.
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
    let changed: Vec<(Uuid, Uuid, Option<Uuid>, Option<f64>)> = sqlx::query_as(
        "UPDATE delivery_schedule AS s
         SET state = t.state, attempts = t.attempts, lease_id = NULL,
             due_at = COALESCE(now() + make_interval(secs => t.due_after), s.due_at),
             finished_at = CASE WHEN t.due_after IS NULL THEN now() END
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::integer[], $5::double precision[])
              AS t (delivery_id, lease_id, state, attempts, due_after)
         WHERE s.delivery_id = t.delivery_id AND s.lease_id = t.lease_id AND s.state = 'pending'
         RETURNING s.endpoint_id, s.org_id, s.lane, t.due_after",
    )
    .bind(sorted.iter().map(|outcome| outcome.delivery_id.as_uuid()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|outcome| outcome.lease).collect::<Vec<_>>())
    .bind(sorted.iter().map(|outcome| outcome.update.state.as_str()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|outcome| signed(outcome.update.attempts)).collect::<Vec<_>>())
    .bind(sorted.iter().map(due_after).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    let mut change = UsageChange::default();
    let finished = changed.iter().filter(|(.., due_after)| due_after.is_none());
    finished.for_each(|(_, org_id, ..)| change.add_rows(OrgId::from_uuid(*org_id), -1));
    // The next row of a lane is due when the first one is finished.
    let lanes_due: Vec<LaneDue> = changed
        .iter()
        .filter_map(|(endpoint, org_id, lane, due_after)| {
            let after = Duration::from_secs_f64(due_after.unwrap_or(0.0));
            Some(LaneDue { after, ..LaneDue::at_once(*endpoint, (*lane)?, *org_id) })
        })
        .collect();
    let due = changed.iter().filter_map(|(endpoint, org_id, _, due_after)| {
        Some((EndpointId::from_uuid(*endpoint), OrgId::from_uuid(*org_id), Duration::from_secs_f64((*due_after)?)))
    });
    lanes::lower(connection, lanes_due.iter().copied()).await?;
    queues::lower(connection, due.chain(lanes_due.iter().map(LaneDue::queue_due))).await?;
    usage::apply(connection, change).await?;
    Ok(changed.iter().any(|(_, _, lane, due_after)| lane.is_some() && due_after.is_none()))
}
