//! What happens to claimed rows: they get the outcome of their attempt, or are held while their endpoint is disabled.

use std::collections::HashSet;

use schemas::ids::DeliveryId;
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

use crate::delivery::{RowUpdate, signed};

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
    sqlx::query(
        "UPDATE delivery_schedule AS s
         SET state = t.state, attempts = t.attempts, lease_id = NULL,
             due_at = COALESCE(now() + make_interval(secs => t.due_after), s.due_at),
             finished_at = CASE WHEN t.due_after IS NULL THEN now() END
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::integer[], $5::double precision[])
              AS t (delivery_id, lease_id, state, attempts, due_after)
         WHERE s.delivery_id = t.delivery_id AND s.lease_id = t.lease_id AND s.state = 'pending'",
    )
    .bind(sorted.iter().map(|outcome| outcome.delivery_id.as_uuid()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|outcome| outcome.lease).collect::<Vec<_>>())
    .bind(sorted.iter().map(|outcome| outcome.update.state.as_str()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|outcome| signed(outcome.update.attempts)).collect::<Vec<_>>())
    .bind(sorted.iter().map(due_after).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Holds claimed rows (delivery, lease) whose endpoint is disabled; enabling it releases them. Returns the rows that
/// were held. The statement locks the endpoint's row, so enabling the endpoint at the same time finds every held row.
pub(crate) async fn hold(pool: &PgPool, claimed: &[(DeliveryId, Uuid)]) -> Result<HashSet<DeliveryId>, sqlx::Error> {
    let held: Vec<(Uuid,)> = sqlx::query_as(
        "WITH disabled AS (
             SELECT e.id FROM endpoints e
             WHERE NOT e.enabled AND e.deleted_at IS NULL
                   AND e.id IN (SELECT d.endpoint_id FROM delivery_schedule d WHERE d.delivery_id = ANY ($1))
             ORDER BY e.id FOR SHARE
         )
         UPDATE delivery_schedule AS s SET state = 'held', lease_id = NULL
         FROM UNNEST($1::uuid[], $2::uuid[]) AS t (delivery_id, lease_id), disabled
         WHERE s.delivery_id = t.delivery_id AND s.lease_id = t.lease_id AND s.state = 'pending'
               AND s.endpoint_id = disabled.id
         RETURNING s.delivery_id",
    )
    .bind(claimed.iter().map(|(id, _)| id.as_uuid()).collect::<Vec<_>>())
    .bind(claimed.iter().map(|(_, lease)| *lease).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    Ok(held.into_iter().map(|(id,)| DeliveryId::from_uuid(id)).collect())
}
