//! What becomes of claimed rows: the outcome of their attempt, or waiting for a disabled endpoint.

use std::collections::HashSet;

use schemas::ids::DeliveryId;
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

use super::number;
use crate::delivery::{Outcome, RowState};

/// The outcome of an attempt that was made under a lease. It counts only while the row has that lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settlement {
    pub delivery_id: DeliveryId,
    pub lease: Uuid,
    pub outcome: Outcome,
}

/// Writes outcomes. A row that another instance has claimed since stays as it is.
pub(crate) async fn settle(connection: &mut PgConnection, settlements: &[Settlement]) -> Result<(), sqlx::Error> {
    if settlements.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(settlements);
    sqlx::query(
        "UPDATE delivery_schedule AS s
         SET state = t.state, attempts = t.attempts, lease_id = NULL,
             due_at = COALESCE(now() + make_interval(secs => t.due_after), s.due_at),
             finished_at = CASE WHEN t.due_after IS NULL THEN now() END
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::integer[], $5::double precision[])
              AS t (delivery_id, lease_id, state, attempts, due_after)
         WHERE s.delivery_id = t.delivery_id AND s.lease_id = t.lease_id AND s.state = 'pending'",
    )
    .bind(columns.delivery_ids)
    .bind(columns.leases)
    .bind(columns.states)
    .bind(columns.attempts)
    .bind(columns.due_after)
    .execute(connection)
    .await?;
    Ok(())
}

/// Settlements as one array per column, the shape that `UNNEST` takes.
#[derive(Default)]
struct Columns {
    delivery_ids: Vec<Uuid>,
    leases: Vec<Uuid>,
    states: Vec<&'static str>,
    attempts: Vec<i32>,
    /// Seconds until the next attempt; `None`: the delivery is finished.
    due_after: Vec<Option<f64>>,
}

impl Columns {
    fn of(settlements: &[Settlement]) -> Self {
        // Sorted, so that two instances that settle at once lock the rows in one order.
        let mut sorted: Vec<&Settlement> = settlements.iter().collect();
        sorted.sort_unstable_by_key(|settlement| settlement.delivery_id);
        let mut columns = Self::default();
        for settlement in sorted {
            let (state, attempts, due_after) = match settlement.outcome {
                Outcome::Ended { state, attempts } => (state, attempts, None),
                Outcome::Again { attempts, after } => (RowState::Pending, attempts, Some(after.as_secs_f64())),
            };
            columns.delivery_ids.push(settlement.delivery_id.as_uuid());
            columns.leases.push(settlement.lease);
            columns.states.push(state.as_str());
            columns.attempts.push(number(attempts));
            columns.due_after.push(due_after);
        }
        columns
    }
}

/// Holds claimed rows whose endpoint is disabled; enabling it releases them. Returns the rows that were held. The
/// statement locks the endpoint's row: an endpoint that is being enabled misses no held row.
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
