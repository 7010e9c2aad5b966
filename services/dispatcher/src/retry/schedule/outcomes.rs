//! What happens to claimed rows: they get the outcome of their attempt.

use std::time::Duration;

use schemas::ids::{DeliveryId, EndpointId, OrgId};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::delivery::{RowUpdate, signed};
use crate::retry::schedule::queues;
use crate::retry::schedule::usage::{self, UsageChange};

/// The outcome of an attempt that was made under a lease. It counts only while the row has that lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeasedOutcome {
    pub delivery_id: DeliveryId,
    pub lease: Uuid,
    pub update: RowUpdate,
}

/// Writes outcomes. A row that another instance has claimed since is not changed.
pub(crate) async fn write_outcomes(
    connection: &mut PgConnection,
    outcomes: &[LeasedOutcome],
) -> Result<(), sqlx::Error> {
    if outcomes.is_empty() {
        return Ok(());
    }
    // Sorted, so that two instances that write at once lock the rows in one order.
    let mut sorted: Vec<&LeasedOutcome> = outcomes.iter().collect();
    sorted.sort_unstable_by_key(|outcome| outcome.delivery_id);
    let due_after = |outcome: &&LeasedOutcome| outcome.update.due_after.map(|after| after.as_secs_f64());
    let changed: Vec<(Uuid, Uuid, Option<f64>)> = sqlx::query_as(
        "UPDATE delivery_schedule AS s
         SET state = t.state, attempts = t.attempts, lease_id = NULL,
             due_at = COALESCE(now() + make_interval(secs => t.due_after), s.due_at),
             finished_at = CASE WHEN t.due_after IS NULL THEN now() END,
             batch_limit = COALESCE(t.batch_limit, s.batch_limit)
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::integer[], $5::double precision[], $6::integer[])
              AS t (delivery_id, lease_id, state, attempts, due_after, batch_limit)
         WHERE s.delivery_id = t.delivery_id AND s.lease_id = t.lease_id AND s.state = 'pending'
         RETURNING s.endpoint_id, s.org_id, t.due_after",
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
    let finished = changed.iter().filter(|(.., due_after)| due_after.is_none());
    finished.for_each(|(_, org_id, _)| change.add_rows(OrgId::from_uuid(*org_id), -1));
    let due = changed.iter().filter_map(|(endpoint, org_id, due_after)| {
        Some((EndpointId::from_uuid(*endpoint), OrgId::from_uuid(*org_id), Duration::from_secs_f64((*due_after)?)))
    });
    queues::lower(connection, due).await?;
    usage::apply(connection, change).await
}
