//! Acknowledgements into the view. One that comes before its event waits in `view.pending_effects` and is applied when
//! the event appears.
//!
//! The id of a duplicate stands for its original. An ack of an event that the organization does not have meets nothing
//! and waits in vain.

use platform::kafka::Record;
use schemas::records::Ack;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::metrics::METRICS;

/// One acknowledged event.
pub(super) struct Row<'a> {
    ack: &'a Ack,
    partition: i32,
    offset: i64,
    nth: i32,
    appended_at_ms: i64,
}

impl<'a> Row<'a> {
    /// `nth`: place within the record.
    pub(super) fn new(record: &Record, ack: &'a Ack, nth: i32) -> Self {
        Self { ack, partition: record.partition, offset: record.offset, nth, appended_at_ms: record.timestamp_ms }
    }
}

/// Acknowledges what is there and lets the rest wait. The first acknowledgement stays.
pub(super) async fn apply(connection: &mut PgConnection, rows: &[Row<'_>]) -> Result<(), sqlx::Error> {
    let done = sqlx::query(
        "WITH asked AS (
             SELECT t.org_id, COALESCE(v.original_id, t.event_id) AS event_id, t.log_partition, t.log_offset, t.item,
                    'epoch'::timestamptz + t.appended_ms * interval '1 millisecond' AS appended_at
             FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[], $5::integer[], $6::bigint[])
                  AS t (org_id, event_id, log_partition, log_offset, item, appended_ms)
             LEFT JOIN verdicts v USING (org_id, event_id)
         ), waiting AS (
             INSERT INTO pending_effects (org_id, event_id, effect, log_partition, log_offset, item, appended_at)
             SELECT org_id, event_id, 'ack', log_partition, log_offset, item, appended_at FROM asked
             WHERE NOT EXISTS (SELECT FROM events e WHERE e.org_id = asked.org_id AND e.event_id = asked.event_id)
             ON CONFLICT DO NOTHING
         )
         UPDATE events e SET acknowledged_at = first.appended_at
         FROM (SELECT org_id, event_id, min(appended_at) AS appended_at FROM asked GROUP BY org_id, event_id) first
         WHERE e.org_id = first.org_id AND e.event_id = first.event_id AND e.acknowledged_at IS NULL",
    )
    .bind(rows.iter().map(|row| row.ack.org_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(rows.iter().map(|row| row.ack.event_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(rows.iter().map(|row| row.partition).collect::<Vec<i32>>())
    .bind(rows.iter().map(|row| row.offset).collect::<Vec<i64>>())
    .bind(rows.iter().map(|row| row.nth).collect::<Vec<i32>>())
    .bind(rows.iter().map(|row| row.appended_at_ms).collect::<Vec<i64>>())
    .execute(connection)
    .await?;
    METRICS.rows.with_label_values(&["ack"]).inc_by(done.rows_affected());
    Ok(())
}

/// Applies what waited for these ids. What they stand for may still be absent (the record that was read belongs to
/// another place, or a duplicate came before its original): that goes on waiting.
pub(super) async fn apply_waiting(
    connection: &mut PgConnection,
    orgs: &[Uuid],
    ids: &[Uuid],
) -> Result<(), sqlx::Error> {
    // An ack may have named a duplicate before it was known to be one: the duplicate's id is among these too.
    sqlx::query(
        "WITH arrived AS (
             SELECT t.org_id, t.event_id AS named, COALESCE(v.original_id, t.event_id) AS event_id
             FROM UNNEST($1::uuid[], $2::uuid[]) AS t (org_id, event_id) LEFT JOIN verdicts v USING (org_id, event_id)
         ), taken AS (
             DELETE FROM pending_effects p USING arrived a
             WHERE p.org_id = a.org_id AND p.event_id = a.named AND p.effect = 'ack'
                   AND EXISTS (SELECT FROM events e WHERE e.org_id = a.org_id AND e.event_id = a.event_id)
             RETURNING a.org_id, a.event_id, p.appended_at
         )
         UPDATE events e SET acknowledged_at = first.appended_at
         FROM (SELECT org_id, event_id, min(appended_at) AS appended_at FROM taken GROUP BY org_id, event_id) first
         WHERE e.org_id = first.org_id AND e.event_id = first.event_id AND e.acknowledged_at IS NULL",
    )
    .bind(orgs)
    .bind(ids)
    .execute(&mut *connection)
    .await?;
    super::attempts::apply_waiting(connection, orgs, ids).await
}
