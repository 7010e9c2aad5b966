//! Which records ahead of a position have rows already.

use schemas::ids::DeliveryId;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::intake::Scheduled;

/// The deliveries of a partition's records from `from` on that have rows already, finished or not.
///
/// A row answers for its own record. Another record with the same event id asks the view for itself, and at most one of
/// the two is shown. In an older log epoch the offset says nothing: a row that no longer waits for the duplicate
/// decision answers for every record of its event. One that waits is decided at its own offset and answers for that.
pub(crate) async fn scheduled_from(
    pool: &PgPool,
    partition: i32,
    log_epoch: i32,
    from: i64,
) -> Result<Scheduled, sqlx::Error> {
    // One statement, so one snapshot: a row that moves from one table to the other meanwhile is seen in one of them.
    let rows: Vec<(Uuid, i64, bool)> = sqlx::query_as(
        "SELECT delivery_id, log_offset, log_epoch < $2 AS at_any_offset
         FROM delivery_schedule WHERE log_partition = $1 AND (log_offset >= $3 OR log_epoch < $2)
         UNION ALL
         SELECT delivery_id, log_offset, false FROM deliveries_awaiting_dedup
         WHERE log_partition = $1 AND log_offset >= $3",
    )
    .bind(partition)
    .bind(log_epoch)
    .bind(from)
    .fetch_all(pool)
    .await?;
    let mut scheduled = Scheduled::default();
    for (id, offset, at_any_offset) in rows {
        scheduled.add(DeliveryId::from_uuid(id), (!at_any_offset).then_some(offset));
    }
    Ok(scheduled)
}
