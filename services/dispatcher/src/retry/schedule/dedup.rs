//! Moves rows whose event has its duplicate decision.

use sqlx::postgres::PgPool;

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
    let decided: i64 = sqlx::query_scalar(
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
                                            payload, payload_encoding, traceparent, log_epoch, log_partition,
                                            log_offset, endpoints_matched, state, due_at)
             SELECT delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, payload, payload_encoding,
                    traceparent, log_epoch, log_partition, log_offset, endpoints_matched, 'pending', now()
             FROM decided WHERE is_original ORDER BY delivery_id
             ON CONFLICT (delivery_id) DO NOTHING
         )
         SELECT count(*) FROM decided",
    )
    .persistent(false)
    .bind(materializer)
    .bind(topic)
    .bind(MAX_ROWS)
    .fetch_one(pool)
    .await?;
    Ok(decided >= MAX_ROWS)
}
