//! Which records ahead of a position have rows already.

use std::collections::HashSet;

use schemas::ids::DeliveryId;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::delivery::Delivery;

/// Deliveries ahead of a position that have rows: their first attempts are not made again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ScheduledDeliveries {
    /// (offset, delivery). Another record can have the same event id and be the original.
    records: HashSet<(i64, DeliveryId)>,
    /// Rows of an older log epoch: they cover every record of their event.
    at_any_offset: HashSet<DeliveryId>,
}

impl ScheduledDeliveries {
    /// Adds a row that covers the record at `offset`, or every record of its event.
    pub(crate) fn add(&mut self, delivery: DeliveryId, offset: Option<i64>) {
        match offset {
            Some(offset) => drop(self.records.insert((offset, delivery))),
            None => drop(self.at_any_offset.insert(delivery)),
        }
    }

    /// Whether a row covers this delivery of this record. A record is read once, so its row is then removed.
    pub(crate) fn take(&mut self, delivery: &Delivery) -> bool {
        self.records.remove(&(delivery.event.offset, delivery.id)) || self.at_any_offset.contains(&delivery.id)
    }
}

/// The deliveries of a partition's records from `from` on that have rows already, finished or not.
///
/// A row covers its own record. Another record with the same event id waits for its own duplicate decision, and the
/// view shows at most one of the two. Offsets of an older log epoch cannot be compared: a row of `delivery_schedule`
/// covers every record of its event. A row that waits for the duplicate decision is decided at its own offset and
/// covers that. Rows of manual retries have negative epochs: their records were read before.
pub(crate) async fn scheduled_from(
    pool: &PgPool,
    partition: i32,
    log_epoch: i32,
    from: i64,
) -> Result<ScheduledDeliveries, sqlx::Error> {
    // One statement, so one snapshot: a row that moves to the other table meanwhile is seen in one of them.
    let rows: Vec<(Uuid, i64, bool)> = sqlx::query_as(
        "SELECT delivery_id, log_offset, log_epoch < $2 AS at_any_offset
         FROM delivery_schedule
         WHERE log_partition = $1 AND (log_offset >= $3 OR log_epoch >= 0 AND log_epoch < $2)
         UNION ALL
         SELECT delivery_id, log_offset, false FROM deliveries_awaiting_dedup
         WHERE log_partition = $1 AND log_offset >= $3",
    )
    .bind(partition)
    .bind(log_epoch)
    .bind(from)
    .fetch_all(pool)
    .await?;
    let mut scheduled = ScheduledDeliveries::default();
    for (id, offset, at_any_offset) in rows {
        scheduled.add(DeliveryId::from_uuid(id), (!at_any_offset).then_some(offset));
    }
    Ok(scheduled)
}
