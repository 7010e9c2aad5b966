//! Moves rows whose event has its duplicate decision.

use std::time::Duration;

use schemas::ids::{EndpointId, OrgId};
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{FromRow, Row};
use uuid::Uuid;

use crate::retry::schedule::events::{self, EventToCopy};
use crate::retry::schedule::lanes::{self, LaneDue};
use crate::retry::schedule::queues;
use crate::retry::schedule::usage::{self, UsageChange};

/// Rows that one statement moves at most.
const MAX_ROWS: i64 = 1000;

/// Removes the rows whose record the view has applied from `deliveries_awaiting_dedup`, in one statement. A row becomes
/// pending if the view shows its event at exactly this log position and the event is no duplicate. Otherwise nothing is
/// sent: the event is a duplicate, is shown from another record, was erased, is below the retention floor, or became a
/// dead letter.
///
/// Offsets of an older log epoch cannot be compared with the view's position. Such a row is released when the view has
/// its event, or at the latest when the view has applied a younger record.
///
/// The view shows at most one record of an event id, so at most one row of a delivery becomes pending. A record that
/// was read under two log epochs can have two rows; then the second one finds the first.
///
/// `true`: the batch was full, so there may be more.
pub(crate) async fn release_decided(pool: &PgPool, materializer: &str, topic: &str) -> Result<bool, sqlx::Error> {
    // Partition by partition: of rows that the view has not reached, only index entries are read. Materialized as
    // in `claim`.
    let mut transaction = runtime::postgres::begin(pool).await?;
    let decided: Vec<DecidedRow> = sqlx::query_as(
        "WITH applied AS MATERIALIZED (
             SELECT picked.*
             FROM consumer_positions p CROSS JOIN LATERAL (
                 SELECT d.log_partition, d.log_epoch, d.log_offset, d.endpoint_id,
                        EXISTS (SELECT FROM contract.events e WHERE e.org_id = d.org_id AND e.event_id = d.event_id
                                AND e.log_partition = d.log_partition AND e.log_offset = d.log_offset)
                        AND NOT EXISTS (SELECT FROM contract.duplicates v
                                        WHERE v.org_id = d.org_id AND v.event_id = d.event_id) AS is_original
                 FROM deliveries_awaiting_dedup d
                 WHERE d.log_partition = p.partition AND (d.log_epoch, d.log_offset) < (p.log_epoch, p.next_offset)
                       AND (d.log_epoch = p.log_epoch OR p.record_time > d.accepted_at
                            OR EXISTS (SELECT FROM contract.events e
                                       WHERE e.org_id = d.org_id AND e.event_id = d.event_id)
                            OR EXISTS (SELECT FROM contract.duplicates v
                                       WHERE v.org_id = d.org_id AND v.event_id = d.event_id))
                 ORDER BY d.log_epoch, d.log_offset, d.endpoint_id LIMIT $3 FOR UPDATE SKIP LOCKED
             ) AS picked
             WHERE p.consumer = $1 AND p.topic = $2 LIMIT $3
         ), decided AS (
             DELETE FROM deliveries_awaiting_dedup d USING applied
             WHERE d.log_partition = applied.log_partition AND d.log_epoch = applied.log_epoch
                   AND d.log_offset = applied.log_offset AND d.endpoint_id = applied.endpoint_id
             RETURNING d.*, applied.is_original
         ), promoted AS (
             INSERT INTO delivery_schedule (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at,
                                            log_epoch, log_partition, log_offset, state, due_at, lane)
             SELECT delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, log_epoch, log_partition,
                    log_offset, 'pending', now(), lane
             FROM decided WHERE is_original ORDER BY delivery_id
             ON CONFLICT (delivery_id) DO NOTHING
             RETURNING delivery_id
         )
         SELECT d.org_id, d.event_id, d.endpoint_id, d.traceparent, d.hops, d.endpoints_matched, d.log_epoch,
                d.log_partition, d.log_offset, d.lane, promoted.delivery_id IS NOT NULL AS is_promoted
         FROM decided d LEFT JOIN promoted ON d.is_original AND promoted.delivery_id = d.delivery_id",
    )
    .persistent(false)
    .bind(materializer)
    .bind(topic)
    .bind(MAX_ROWS)
    .fetch_all(&mut *transaction)
    .await?;
    let promoted: Vec<&DecidedRow> = decided.iter().filter(|row| row.is_promoted).collect();
    let mut change = UsageChange::default();
    decided.iter().filter(|row| !row.is_promoted).for_each(|row| change.add_rows(OrgId::from_uuid(row.org_id), -1));
    let stored = events::copy_from_view(&mut transaction, promoted.iter().map(|row| row.event())).await?;
    stored.into_iter().for_each(|(org_id, bytes)| change.add_bytes(org_id, bytes));
    // A duplicate held its lane back too.
    lanes::lower(&mut transaction, decided.iter().filter_map(DecidedRow::lane_due)).await?;
    let due = decided.iter().filter(|row| row.is_promoted || row.lane.is_some());
    let due = due.map(|row| (EndpointId::from_uuid(row.endpoint_id), OrgId::from_uuid(row.org_id), Duration::ZERO));
    queues::lower(&mut transaction, due).await?;
    usage::apply(&mut transaction, change).await?;
    transaction.commit().await?;
    Ok(decided.len() >= MAX_ROWS as usize)
}

/// A row whose event has its decision.
struct DecidedRow {
    org_id: Uuid,
    event_id: Uuid,
    endpoint_id: Uuid,
    traceparent: Option<String>,
    hops: i32,
    endpoints_matched: Option<i32>,
    log_epoch: i32,
    log_partition: i32,
    log_offset: i64,
    lane: Option<Uuid>,
    /// It has a row of the schedule now.
    is_promoted: bool,
}

impl DecidedRow {
    fn lane_due(&self) -> Option<LaneDue> {
        Some(LaneDue::at_once(self.endpoint_id, self.lane?, self.org_id))
    }

    fn event(&self) -> EventToCopy {
        EventToCopy {
            org_id: self.org_id,
            event_id: self.event_id,
            position: (self.log_partition, self.log_epoch, self.log_offset),
            traceparent: self.traceparent.clone(),
            hops: self.hops,
            endpoints_matched: self.endpoints_matched,
        }
    }
}

impl FromRow<'_, PgRow> for DecidedRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            org_id: row.try_get("org_id")?,
            event_id: row.try_get("event_id")?,
            endpoint_id: row.try_get("endpoint_id")?,
            traceparent: row.try_get("traceparent")?,
            hops: row.try_get("hops")?,
            endpoints_matched: row.try_get("endpoints_matched")?,
            log_epoch: row.try_get("log_epoch")?,
            log_partition: row.try_get("log_partition")?,
            log_offset: row.try_get("log_offset")?,
            lane: row.try_get("lane")?,
            is_promoted: row.try_get("is_promoted")?,
        })
    }
}
