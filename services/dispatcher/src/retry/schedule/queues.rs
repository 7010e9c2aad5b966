//! When something of an endpoint is due.

use std::collections::BTreeMap;
use std::time::Duration;

use schemas::ids::{EndpointId, OrgId};
use sqlx::postgres::{PgConnection, PgPool};
use uuid::Uuid;

/// Endpoints that one poll locks at most.
const MAX_QUEUES: i64 = 1000;

/// Makes the queues of endpoints due after these times at the latest, in the transaction that writes the rows: their
/// times are those of its start. A held queue stays held. A trigger lowers `first_due_at` too.
pub(super) async fn lower(
    connection: &mut PgConnection,
    due: impl Iterator<Item = (EndpointId, OrgId, Duration)>,
) -> Result<(), sqlx::Error> {
    // In this order, so that two transactions lock queues in one order.
    let mut earliest: BTreeMap<EndpointId, (OrgId, Duration)> = BTreeMap::new();
    for (endpoint, org_id, after) in due {
        let entry = earliest.entry(endpoint).or_insert((org_id, after));
        entry.1 = entry.1.min(after);
    }
    if earliest.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO endpoint_queues AS q (endpoint_id, org_id, next_due_at)
         SELECT endpoint_id, org_id, now() + make_interval(secs => after)
         FROM UNNEST($1::uuid[], $2::uuid[], $3::double precision[]) AS t (endpoint_id, org_id, after)
         ON CONFLICT (endpoint_id) DO UPDATE SET next_due_at = EXCLUDED.next_due_at
         WHERE NOT q.is_held AND EXCLUDED.next_due_at < q.next_due_at",
    )
    .bind(earliest.keys().map(|endpoint| endpoint.as_uuid()).collect::<Vec<_>>())
    .bind(earliest.values().map(|(org_id, _)| org_id.as_uuid()).collect::<Vec<_>>())
    .bind(earliest.values().map(|(_, after)| after.as_secs_f64()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Locks queues that are due, those due for longest first, and these endpoints' if they have any. Queues that another
/// instance has locked are left out.
pub(crate) async fn lock_due(
    connection: &mut PgConnection,
    endpoints: &[EndpointId],
) -> Result<Vec<(EndpointId, OrgId)>, sqlx::Error> {
    let mut locked: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "SELECT endpoint_id, org_id FROM endpoint_queues WHERE next_due_at < 'infinity' AND next_due_at <= now()
         ORDER BY next_due_at LIMIT $1 FOR UPDATE SKIP LOCKED",
    )
    .persistent(false)
    .bind(MAX_QUEUES)
    .fetch_all(&mut *connection)
    .await?;
    if !endpoints.is_empty() {
        let more: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "SELECT endpoint_id, org_id FROM endpoint_queues
             WHERE endpoint_id = ANY ($1) AND NOT is_held AND next_due_at > now() FOR UPDATE SKIP LOCKED",
        )
        .persistent(false)
        .bind(endpoints.iter().map(|endpoint| endpoint.as_uuid()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
        locked.extend(more);
    }
    Ok(locked
        .into_iter()
        .map(|(endpoint, org_id)| (EndpointId::from_uuid(endpoint), OrgId::from_uuid(org_id)))
        .collect())
}

/// When a locked queue is due next.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NextDue {
    /// When its first row or lane is, but not within this time.
    NotBefore(Duration),
    /// At once: rows are left that are claimed before they are due.
    AtOnce,
    /// After this time, if a row or lane is left, whenever that is due: another transaction had locked it.
    IfAnyIsLeft(Duration),
}

/// Sets when locked queues are due next, and what of them need not be read any more.
pub(crate) async fn reset(connection: &mut PgConnection, queues: &[(EndpointId, NextDue)]) -> Result<(), sqlx::Error> {
    if queues.is_empty() {
        return Ok(());
    }
    let not_before = |next: &NextDue| match next {
        NextDue::NotBefore(after) | NextDue::IfAnyIsLeft(after) => Some(after.as_secs_f64()),
        NextDue::AtOnce => None,
    };
    sqlx::query(
        "WITH first AS MATERIALIZED (
             SELECT t.endpoint_id, t.not_before, t.if_any, COALESCE(
                        (SELECT d.due_at FROM delivery_schedule d
                         WHERE d.endpoint_id = b.endpoint_id AND d.state = 'pending' AND d.refusal IS NULL
                               AND d.lane IS NULL AND d.due_at >= b.first_due_at
                         ORDER BY d.due_at LIMIT 1), 'infinity') AS due_at
             FROM UNNEST($1::uuid[], $2::double precision[], $3::boolean[]) AS t (endpoint_id, not_before, if_any)
                  JOIN endpoint_queues b ON b.endpoint_id = t.endpoint_id
         )
         UPDATE endpoint_queues q
         SET first_due_at = first.due_at,
             next_due_at = CASE
                 WHEN first.not_before IS NULL THEN now()
                 WHEN first.if_any AND (first.due_at < 'infinity'
                                        OR EXISTS (SELECT FROM ordered_lanes l WHERE l.endpoint_id = q.endpoint_id))
                 THEN now() + make_interval(secs => first.not_before)
                 ELSE greatest(now() + make_interval(secs => first.not_before), least(first.due_at,
                          (SELECT l.due_at FROM ordered_lanes l
                           WHERE l.endpoint_id = q.endpoint_id ORDER BY l.due_at LIMIT 1))) END
         FROM first WHERE q.endpoint_id = first.endpoint_id",
    )
    .persistent(false)
    .bind(queues.iter().map(|(endpoint, _)| endpoint.as_uuid()).collect::<Vec<_>>())
    .bind(queues.iter().map(|(_, next)| not_before(next)).collect::<Vec<_>>())
    .bind(queues.iter().map(|(_, next)| matches!(next, NextDue::IfAnyIsLeft(_))).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Holds locked queues whose endpoint is disabled; enabling the endpoint releases them. Returns those that were held:
/// the others' endpoints were just enabled, or are being changed.
pub(crate) async fn hold(
    connection: &mut PgConnection,
    endpoints: &[EndpointId],
) -> Result<Vec<EndpointId>, sqlx::Error> {
    if endpoints.is_empty() {
        return Ok(Vec::new());
    }
    // The lock on the endpoint makes sure that enabling it finds the queue held. It is not waited for: who changes an
    // endpoint locks it before its queue.
    let held: Vec<Uuid> = sqlx::query_scalar(
        "WITH disabled AS (
             SELECT id FROM endpoints WHERE id = ANY ($1) AND NOT enabled AND deleted_at IS NULL
             ORDER BY id FOR SHARE SKIP LOCKED
         )
         UPDATE endpoint_queues q SET is_held = true, next_due_at = 'infinity'
         FROM disabled WHERE q.endpoint_id = disabled.id RETURNING q.endpoint_id",
    )
    .persistent(false)
    .bind(endpoints.iter().map(|endpoint| endpoint.as_uuid()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(held.into_iter().map(EndpointId::from_uuid).collect())
}

/// Releases the queue of an endpoint that is enabled. Its rows have the time of a whole schedule from now on.
pub(crate) async fn release(connection: &mut PgConnection, endpoint: EndpointId) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE endpoint_queues SET is_held = false, resumed_at = now(), next_due_at = now()
         WHERE endpoint_id = $1 AND is_held",
    )
    .bind(endpoint.as_uuid())
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes the queue of a deleted endpoint due: the retry worker cancels its rows.
pub(crate) async fn make_due(connection: &mut PgConnection, endpoint: EndpointId) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE endpoint_queues SET is_held = false, next_due_at = now() WHERE endpoint_id = $1")
        .bind(endpoint.as_uuid())
        .execute(connection)
        .await?;
    Ok(())
}

/// Seconds until the next queue is due; `None`: none waits.
pub(crate) async fn next_due(pool: &PgPool) -> Result<Option<f64>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT extract(epoch FROM next_due_at - now())::double precision FROM endpoint_queues
         WHERE next_due_at < 'infinity' ORDER BY next_due_at LIMIT 1",
    )
    .persistent(false)
    .fetch_optional(pool)
    .await
}
