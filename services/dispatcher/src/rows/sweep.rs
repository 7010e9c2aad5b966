//! Deletes rows that nobody needs any more, and counts those that are left.

use schemas::ids::OrgId;
use sqlx::postgres::{PgConnection, PgPool};

/// Rows that one sweep deletes at most.
const SWEEP_ROWS: i64 = 1000;
/// Counting open rows stops here: a gauge is not worth a scan.
const COUNTED_ROWS: i64 = 10_000;

/// Deletes finished rows whose record the dispatcher's position has passed (of an older log epoch: a younger record):
/// nobody reads it again. `true`: the batch was full, so there may be more.
pub(crate) async fn sweep(pool: &PgPool, consumer: &str, topic: &str) -> Result<bool, sqlx::Error> {
    let swept = sqlx::query(
        "DELETE FROM delivery_schedule WHERE delivery_id IN (
             SELECT d.delivery_id FROM delivery_schedule d JOIN consumer_positions p
                    ON p.consumer = $1 AND p.topic = $2 AND p.partition = d.log_partition
             WHERE d.finished_at IS NOT NULL
                   AND CASE WHEN p.log_epoch = d.log_epoch THEN p.next_offset > d.log_offset
                            ELSE p.log_epoch > d.log_epoch AND p.record_time > d.accepted_at END
             ORDER BY d.finished_at LIMIT $3 FOR UPDATE OF d SKIP LOCKED
         )",
    )
    .bind(consumer)
    .bind(topic)
    .bind(SWEEP_ROWS)
    .execute(pool)
    .await?;
    Ok(i64::try_from(swept.rows_affected()).is_ok_and(|rows| rows >= SWEEP_ROWS))
}

/// Rows that are not finished, those that wait for the duplicate decision included; 10,000 means 10,000 or more.
pub(crate) async fn depth(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT FROM delivery_schedule WHERE finished_at IS NULL
                               UNION ALL SELECT FROM deliveries_awaiting_dedup LIMIT $1) AS unfinished",
    )
    .bind(COUNTED_ROWS)
    .fetch_one(pool)
    .await
}

/// Deletes rows of an organization, at most a batch of each table, finished or not; an attempt in flight then finds
/// nothing to settle. Returns how many.
pub(crate) async fn erase(connection: &mut PgConnection, org_id: OrgId) -> Result<u64, sqlx::Error> {
    // In this order, as rows move: one that becomes pending between the statements is found by the second.
    let awaiting = sqlx::query(
        "DELETE FROM deliveries_awaiting_dedup WHERE (log_partition, log_epoch, log_offset, endpoint_id) IN (
             SELECT log_partition, log_epoch, log_offset, endpoint_id FROM deliveries_awaiting_dedup
             WHERE org_id = $1 LIMIT $2)",
    )
    .bind(org_id.as_uuid())
    .bind(SWEEP_ROWS)
    .execute(&mut *connection)
    .await?;
    let scheduled = sqlx::query(
        "DELETE FROM delivery_schedule WHERE delivery_id IN (
             SELECT delivery_id FROM delivery_schedule WHERE org_id = $1 LIMIT $2)",
    )
    .bind(org_id.as_uuid())
    .bind(SWEEP_ROWS)
    .execute(connection)
    .await?;
    Ok(awaiting.rows_affected() + scheduled.rows_affected())
}
