//! Which partitions hold events of an organization, and the oldest and newest event of each.

use schemas::events_in_log_order;
use schemas::ids::OrgId;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;

use super::cursor::{EpochOffset, OffsetsByPartition};

/// The oldest and newest event of an organization in one partition of the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartitionBounds {
    pub partition: i32,
    /// Acceptance time of the oldest event.
    pub oldest_at: OffsetDateTime,
    pub oldest: EpochOffset,
    pub newest: EpochOffset,
}

/// The events of an organization in the view, and the newest ones that retention dropped.
#[derive(Debug, Default)]
pub(super) struct InboxBounds {
    /// Partitions with events; normally one.
    pub partitions: Vec<PartitionBounds>,
    /// The newest event of each partition that was dropped.
    pub dropped: OffsetsByPartition,
}

impl InboxBounds {
    /// The oldest event in the view, by partition.
    pub(super) fn oldest(&self) -> OffsetsByPartition {
        self.partitions.iter().map(|bounds| (bounds.partition, bounds.oldest)).collect()
    }

    /// The newest event by partition, even if retention dropped it.
    pub(super) fn newest(&self) -> OffsetsByPartition {
        let mut newest = self.dropped.clone();
        newest.extend(self.partitions.iter().map(|bounds| (bounds.partition, bounds.newest)));
        newest
    }
}

/// Reads the bounds of an organization. The recursion is a skip scan, which PostgreSQL lacks.
pub(super) async fn read_bounds(
    connection: &mut PgConnection,
    organization: OrgId,
) -> Result<InboxBounds, sqlx::Error> {
    // Partition, newest epoch and offset; time, epoch and offset of the oldest event if it is in the view.
    type BoundsRow = (i32, i32, i64, Option<OffsetDateTime>, Option<i32>, Option<i64>);
    let rows: Vec<BoundsRow> = sqlx::query_as(concat!(
        "WITH RECURSIVE partitions AS (",
        events_in_log_order!(
            SELECT "e.log_partition" FROM "view.events" WHERE "e.org_id = $1" ORDER BY "log_partition" LIMIT "1"
        ),
        " UNION ALL SELECT ",
        events_in_log_order!(
            SELECT "e.log_partition" FROM "view.events"
            WHERE "e.org_id = $1 AND e.log_partition > p.log_partition" ORDER BY "log_partition" LIMIT "1"
        ),
        " FROM partitions p WHERE p.log_partition IS NOT NULL
         )
         SELECT p.log_partition, newest.log_epoch, newest.log_offset,
                oldest.accepted_at, oldest.log_epoch, oldest.log_offset
         FROM partitions p
         CROSS JOIN LATERAL ",
        events_in_log_order!(
            SELECT "e.accepted_at, e.log_epoch, e.log_offset" FROM "view.events"
            WHERE "e.org_id = $1 AND e.log_partition = p.log_partition" ORDER BY "log_epoch, log_offset" LIMIT "1"
        ),
        " AS oldest CROSS JOIN LATERAL ",
        events_in_log_order!(
            SELECT "e.log_epoch, e.log_offset" FROM "view.events"
            WHERE "e.org_id = $1 AND e.log_partition = p.log_partition"
            ORDER BY "log_epoch DESC, log_offset DESC" LIMIT "1"
        ),
        " AS newest
         WHERE p.log_partition IS NOT NULL
         UNION ALL
         SELECT log_partition, log_epoch, log_offset, NULL, NULL, NULL FROM retention_gaps WHERE org_id = $1",
    ))
    .bind(organization.as_uuid())
    .fetch_all(connection)
    .await?;
    let mut bounds = InboxBounds::default();
    for (partition, log_epoch, offset, oldest_at, oldest_epoch, oldest_offset) in rows {
        let newest = EpochOffset { log_epoch, offset };
        match (oldest_at, oldest_epoch, oldest_offset) {
            (Some(oldest_at), Some(log_epoch), Some(offset)) => {
                bounds.partitions.push(PartitionBounds {
                    partition,
                    oldest_at,
                    oldest: EpochOffset { log_epoch, offset },
                    newest,
                });
            }
            _ => drop(bounds.dropped.insert(partition, newest)),
        }
    }
    Ok(bounds)
}
