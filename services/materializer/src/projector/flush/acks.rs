//! Writes acknowledgements into the view. An ack that comes before its event becomes a pending effect.
//!
//! The id of a duplicate resolves to its original. An ack of an event that the organization does not have stays pending
//! until it is swept.

use kafka::Record;
use schemas::records::Ack;
use schemas::unix_time::from_millis;
use sqlx::postgres::PgConnection;

use crate::columns::column;
use crate::metrics::METRICS;

pub(super) struct AckRow<'a> {
    pub(super) record: &'a Record,
    pub(super) ack: &'a Ack,
    /// Index within the record.
    pub(super) index: i32,
}

/// Acknowledges the events that the view has. The other acks become pending effects. Of several acks of an event,
/// the one that was appended first counts, in whatever order partitions are read.
pub(super) async fn apply(connection: &mut PgConnection, rows: &[AckRow<'_>]) -> Result<(), sqlx::Error> {
    let done = sqlx::query(
        "WITH asked AS (
             SELECT t.org_id, COALESCE(i.canonical_id, t.event_id) AS event_id, t.log_partition, t.log_offset, t.item,
                    t.appended_at
             FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[], $5::integer[], $6::timestamptz[])
                  AS t (org_id, event_id, log_partition, log_offset, item, appended_at)
             LEFT JOIN event_ids i USING (org_id, event_id)
         ), pending AS (
             INSERT INTO pending_effects (org_id, event_id, effect, log_partition, log_offset, item, appended_at)
             SELECT org_id, event_id, 'ack', log_partition, log_offset, item, appended_at FROM asked
             WHERE NOT EXISTS (SELECT FROM events e WHERE e.org_id = asked.org_id AND e.event_id = asked.event_id)
             ON CONFLICT DO NOTHING
         )
         UPDATE events e SET acknowledged_at = first.appended_at
         FROM (SELECT org_id, event_id, min(appended_at) AS appended_at FROM asked GROUP BY org_id, event_id) first
         WHERE e.org_id = first.org_id AND e.event_id = first.event_id
               AND (e.acknowledged_at IS NULL OR first.appended_at < e.acknowledged_at)",
    )
    .bind(column(rows, |row| row.ack.org_id.as_uuid()))
    .bind(column(rows, |row| row.ack.event_id.as_uuid()))
    .bind(column(rows, |row| row.record.partition))
    .bind(column(rows, |row| row.record.offset))
    .bind(column(rows, |row| row.index))
    .bind(column(rows, |row| from_millis(row.record.timestamp_ms)))
    .execute(connection)
    .await?;
    METRICS.rows.with_label_values(&["ack"]).inc_by(done.rows_affected());
    Ok(())
}
