//! Deletes rows that are no longer needed, and counts the rest.

use schemas::ids::OrgId;
use sqlx::postgres::{PgConnection, PgPool};

/// Rows that one sweep deletes at most.
const SWEEP_ROWS: i64 = 1000;
/// Counting open rows stops here: a gauge is not worth a scan.
const COUNTED_ROWS: i64 = 10_000;

/// Deletes finished rows whose record lies before the dispatcher's position (of an older log epoch: a younger record
/// does), so that it is not read again. `true`: the batch was full, so there may be more.
pub(crate) async fn sweep(pool: &PgPool, consumer: &str, topic: &str) -> Result<bool, sqlx::Error> {
    // An array, or a nested loop may read the subquery several times, each time beyond the rows deleted already.
    let swept = sqlx::query(
        "DELETE FROM delivery_schedule WHERE delivery_id = ANY (ARRAY(
             SELECT d.delivery_id FROM delivery_schedule d JOIN consumer_positions p
                    ON p.consumer = $1 AND p.topic = $2 AND p.partition = d.log_partition
             WHERE d.finished_at IS NOT NULL
                   AND CASE WHEN p.log_epoch = d.log_epoch THEN p.next_offset > d.log_offset
                            ELSE p.log_epoch > d.log_epoch AND p.record_time > d.accepted_at END
             ORDER BY d.finished_at LIMIT $3 FOR UPDATE OF d SKIP LOCKED
         ))",
    )
    .persistent(false)
    .bind(consumer)
    .bind(topic)
    .bind(SWEEP_ROWS)
    .execute(pool)
    .await?;
    Ok(i64::try_from(swept.rows_affected()).is_ok_and(|rows| rows >= SWEEP_ROWS))
}

/// Unfinished rows, including those that wait for the duplicate decision; 10,000 means 10,000 or more.
pub(crate) async fn depth(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT FROM delivery_schedule WHERE finished_at IS NULL
                               UNION ALL SELECT FROM deliveries_awaiting_dedup LIMIT $1) AS unfinished",
    )
    .bind(COUNTED_ROWS)
    .fetch_one(pool)
    .await
}

/// Deletes rows of an organization, finished or not, at most a batch of each table. The outcome of an attempt in flight
/// then finds no row. Returns how many rows were deleted.
pub(crate) async fn erase(connection: &mut PgConnection, org_id: OrgId) -> Result<u64, sqlx::Error> {
    // In this order, since rows move from the first table to the second.
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
