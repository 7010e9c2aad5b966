//! Inserts events into the view: one statement for all events of a chunk, one array per column.

use schemas::records::{Dedup, Event, PayloadEncoding};
use schemas::unix_time::{from_micros, from_millis};
use sqlx::postgres::PgConnection;

use crate::columns::column;
use crate::projector::event_row::EventRow;

pub(super) struct InsertedEvents {
    /// Number of events that the view did not have before.
    pub(super) events: u64,
    /// Some event, of this chunk or not, has pending effects. `false` saves a statement.
    pub(super) has_pending_effects: bool,
}

/// Inserts the rows that are not duplicates. Skips a row if the view has its id, if its id belongs to another record,
/// or if its id was decided to be a duplicate.
pub(super) async fn insert(
    connection: &mut PgConnection,
    rows: &[EventRow<'_>],
) -> Result<InsertedEvents, sqlx::Error> {
    let mut rows: Vec<&EventRow<'_>> = rows.iter().filter(|row| row.duplicate_of.is_none()).collect();
    // By id: two concurrent writers (only possible during a rebalance) lock in the same order and cannot deadlock. All
    // rows that share an id are sent: `event_ids` says which record owns the id, and that may be any of them.
    rows.sort_by_key(|row| row.id());
    let (events, has_pending_effects): (i64, bool) = sqlx::query_as(
        "WITH written AS (
             INSERT INTO events (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type,
                                 payload, payload_encoding, occurred_at, source, ordering_key, metadata, dedup_id)
             SELECT org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type,
                    payload::json, payload_encoding, occurred_at, source, ordering_key, metadata::json, dedup_id
             FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::integer[], $5::bigint[], $6::timestamptz[],
                         $7::text[], $8::text[], $9::text[], $10::timestamptz[], $11::text[], $12::text[],
                         $13::text[], $14::text[])
                  AS t (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at,
                        event_type, payload, payload_encoding, occurred_at, source, ordering_key, metadata, dedup_id)
             WHERE NOT EXISTS (
                 SELECT FROM event_ids i WHERE i.org_id = t.org_id AND i.event_id = t.event_id
                 AND (i.canonical_id <> i.event_id
                      OR (i.log_epoch, i.log_partition, i.log_offset) <> (t.log_epoch, t.log_partition, t.log_offset)))
             ON CONFLICT DO NOTHING RETURNING 1
         )
         SELECT (SELECT count(*) FROM written), EXISTS (SELECT FROM pending_effects)",
    )
    .bind(column(&rows, |row| row.event.org_id.as_uuid()))
    .bind(column(&rows, |row| row.event.event_id.as_uuid()))
    .bind(column(&rows, |row| row.position.log_epoch))
    .bind(column(&rows, |row| row.position.partition))
    .bind(column(&rows, |row| row.position.offset))
    .bind(column(&rows, |row| from_millis(row.accepted_at_ms)))
    .bind(column(&rows, |row| row.event.event_type.as_str()))
    .bind(column(&rows, |row| row.event.payload.as_str()))
    .bind(column(&rows, |row| row.event.payload_encoding.map(PayloadEncoding::as_str)))
    .bind(column(&rows, |row| row.event.occurred_at.map(from_micros)))
    .bind(column(&rows, |row| row.event.source.as_deref()))
    .bind(column(&rows, |row| row.event.ordering_key.as_deref()))
    .bind(column(&rows, |row| metadata_json(row.event)))
    .bind(column(&rows, |row| row.event.dedup.as_ref().and_then(Dedup::shown_id)))
    .fetch_one(connection)
    .await?;
    Ok(InsertedEvents { events: u64::try_from(events).unwrap_or(0), has_pending_effects })
}

fn metadata_json(event: &Event) -> Option<String> {
    if event.metadata.is_empty() {
        return None;
    }
    // A map of strings always serializes.
    serde_json::to_string(&event.metadata).ok()
}
