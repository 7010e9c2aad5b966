//! Claims due rows for an attempt.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use schemas::ids::{DeliveryId, EndpointId, EventId, OrgId};
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{FromRow, Row};
use uuid::Uuid;

use crate::delivery::{Delivery, OutboundEvent};

/// A row that was claimed for an attempt.
#[derive(Debug, Clone)]
pub(crate) struct ClaimedRow {
    pub delivery: Delivery,
    /// Attempts made before.
    pub attempts: u32,
    pub lease: Uuid,
    /// Whether its event is acknowledged, so that no retry is needed.
    pub acknowledged: bool,
}

/// Endpoints with pending rows, and in how many seconds the first row of each is due (negative: it is overdue). Costs
/// one index lookup per endpoint, however many rows each has.
pub(crate) async fn due_endpoints(pool: &PgPool) -> Result<Vec<(EndpointId, f64)>, sqlx::Error> {
    let rows: Vec<(Uuid, f64)> = sqlx::query_as(
        "WITH RECURSIVE first AS (
             (SELECT endpoint_id, due_at FROM delivery_schedule WHERE state = 'pending'
              ORDER BY endpoint_id, due_at LIMIT 1)
             UNION ALL
             SELECT next.endpoint_id, next.due_at
             FROM first CROSS JOIN LATERAL (
                 SELECT d.endpoint_id, d.due_at FROM delivery_schedule d
                 WHERE d.state = 'pending' AND d.endpoint_id > first.endpoint_id
                 ORDER BY d.endpoint_id, d.due_at LIMIT 1
             ) AS next
         )
         SELECT endpoint_id, extract(epoch FROM due_at - now())::double precision FROM first",
    )
    .persistent(false)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(id, seconds)| (EndpointId::from_uuid(id), seconds)).collect())
}

/// Claims due rows: (endpoint, maximum of rows, lease). No other instance claims them before the lease ends.
pub(crate) async fn claim(
    pool: &PgPool,
    wanted: &[(EndpointId, usize, Duration)],
) -> Result<Vec<ClaimedRow>, sqlx::Error> {
    // Materialized, or a nested loop may pick rows several times: each time it would skip those that the statement has
    // claimed already, and claim more.
    sqlx::query_as(
        "WITH due AS MATERIALIZED (
             SELECT picked.delivery_id, wanted.lease_seconds
             FROM UNNEST($1::uuid[], $2::bigint[], $3::double precision[])
                  AS wanted (endpoint_id, max_rows, lease_seconds)
             CROSS JOIN LATERAL (
                 SELECT d.delivery_id FROM delivery_schedule d
                 WHERE d.state = 'pending' AND d.endpoint_id = wanted.endpoint_id AND d.due_at <= now()
                 ORDER BY d.due_at LIMIT wanted.max_rows FOR UPDATE SKIP LOCKED
             ) AS picked
         )
         UPDATE delivery_schedule AS s
         SET lease_id = gen_random_uuid(), due_at = now() + make_interval(secs => due.lease_seconds)
         FROM due
         WHERE s.delivery_id = due.delivery_id
         RETURNING s.delivery_id, s.org_id, s.event_id, s.endpoint_id, s.event_type, s.accepted_at, s.payload,
                   s.payload_encoding, s.traceparent, s.log_epoch, s.log_partition, s.log_offset, s.attempts,
                   s.lease_id, s.endpoints_matched,
                   EXISTS (SELECT FROM contract.acknowledged a
                           WHERE a.org_id = s.org_id AND a.event_id = s.event_id) AS acknowledged",
    )
    .persistent(false)
    .bind(wanted.iter().map(|(endpoint, ..)| endpoint.as_uuid()).collect::<Vec<_>>())
    .bind(wanted.iter().map(|(_, max_rows, _)| i64::try_from(*max_rows).unwrap_or(i64::MAX)).collect::<Vec<_>>())
    .bind(wanted.iter().map(|(.., lease)| lease.as_secs_f64()).collect::<Vec<_>>())
    .fetch_all(pool)
    .await
}

impl FromRow<'_, PgRow> for ClaimedRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let event = OutboundEvent {
            org_id: OrgId::from_uuid(row.try_get("org_id")?),
            event_id: EventId::from_uuid(row.try_get("event_id")?),
            event_type: row.try_get("event_type")?,
            accepted_at: row.try_get("accepted_at")?,
            payload: row.try_get("payload")?,
            payload_encoding: row.try_get::<Option<String>, _>("payload_encoding")?.map(Cow::Owned),
            traceparent: row.try_get("traceparent")?,
            endpoints_matched: row.try_get::<Option<i32>, _>("endpoints_matched")?.and_then(|n| u32::try_from(n).ok()),
            log_epoch: row.try_get("log_epoch")?,
            partition: row.try_get("log_partition")?,
            offset: row.try_get("log_offset")?,
        };
        let endpoint_id = EndpointId::from_uuid(row.try_get("endpoint_id")?);
        let id = DeliveryId::from_uuid(row.try_get("delivery_id")?);
        let attempts: i32 = row.try_get("attempts")?;
        Ok(Self {
            delivery: Delivery { id, endpoint_id, event: Arc::new(event) },
            attempts: u32::try_from(attempts).unwrap_or(0),
            lease: row.try_get("lease_id")?,
            acknowledged: row.try_get("acknowledged")?,
        })
    }
}
