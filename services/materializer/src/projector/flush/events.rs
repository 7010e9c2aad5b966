//! Events into the view: one statement for a whole batch, one array per column. Which of two records with one id is the
//! event lives in `places`.

use std::collections::BTreeMap;

use platform::kafka::Record;
use schemas::ids::EventId;
use schemas::records::{Dedup, Event};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::{Reading, places};
use crate::metrics::METRICS;

/// One event and its place.
pub(super) struct Row<'a> {
    pub(super) event: &'a Event,
    pub(super) log_epoch: i32,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) accepted_at_ms: i64,
    /// Another record may have the same event id.
    pub(super) may_repeat: bool,
}

impl<'a> Row<'a> {
    pub(super) fn new(record: &Record, event: &'a Event, log_epoch: i32) -> Self {
        Self {
            event,
            log_epoch,
            partition: record.partition,
            offset: record.offset,
            accepted_at_ms: record.timestamp_ms,
            may_repeat: record.as_native().may_repeat_an_id(),
        }
    }
}

/// Inserts the rows that are no duplicates. A row whose id is there already is left as it is, and so is one whose id
/// belongs to another place. Answers whether anything at all waits for an event to appear, which saves asking.
pub(super) async fn insert(
    connection: &mut PgConnection,
    rows: &[Row<'_>],
    duplicates: &BTreeMap<usize, EventId>,
    reading: &Reading,
) -> Result<bool, sqlx::Error> {
    let mut offered: Vec<&Row<'_>> =
        rows.iter().enumerate().filter(|(index, _)| !duplicates.contains_key(index)).map(|(_, row)| row).collect();
    // By key: two writers at once (only possible while partitions change hands) then meet in the same order and cannot
    // deadlock. Stable, so that of two rows with one id the first that was read stays first.
    offered.sort_by_key(|row| (row.event.org_id, row.event.event_id));
    let is_first = matches!(reading, Reading::First(_));
    if is_first {
        places::claim(connection, &offered).await?;
    }
    // All of them, also those that share an id: the place says which one has it, and that may be any.
    let (written, effects_wait) = insert_offered(connection, &offered).await?;
    METRICS.rows.with_label_values(&["event"]).inc_by(u64::try_from(written).unwrap_or(0));
    if is_first && usize::try_from(written).is_ok_and(|written| written < offered.len()) {
        places::note_twins(connection, &offered).await?;
    }
    Ok(effects_wait)
}

/// How many were not there before, and whether any effect waits.
async fn insert_offered(connection: &mut PgConnection, offered: &[&Row<'_>]) -> Result<(i64, bool), sqlx::Error> {
    let column = |f: fn(&Row<'_>) -> Uuid| offered.iter().map(|row| f(row)).collect::<Vec<Uuid>>();
    let texts = |f: fn(&Event) -> Option<&str>| offered.iter().map(|row| f(row.event)).collect::<Vec<Option<&str>>>();
    let metadata: Vec<Option<String>> = offered.iter().map(|row| metadata_json(row.event)).collect();
    // Seconds and microseconds apart: an interval is multiplied as a double, which cannot hold all microseconds of the
    // year 9999.
    sqlx::query_as(
        "WITH written AS (INSERT INTO events (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at, event_type, payload, occurred_at,
                                  source, ordering_key, metadata, dedup_id)
         SELECT org_id, event_id, log_epoch, log_partition, log_offset, 'epoch'::timestamptz + accepted_ms * interval '1 millisecond',
                event_type, payload::json, 'epoch'::timestamptz + occurred_us / 1000000 * interval '1 second' + occurred_us % 1000000 * interval '1 microsecond', source, ordering_key, metadata::json, dedup_id
         FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::integer[], $5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::bigint[],
                     $10::text[], $11::text[], $12::text[], $13::text[])
              AS t (org_id, event_id, log_epoch, log_partition, log_offset, accepted_ms, event_type, payload, occurred_us,
                    source, ordering_key, metadata, dedup_id)
         WHERE NOT EXISTS (SELECT FROM event_places p WHERE p.org_id = t.org_id AND p.event_id = t.event_id
                           AND (p.log_epoch, p.log_partition, p.log_offset) <> (t.log_epoch, t.log_partition, t.log_offset))
         ON CONFLICT DO NOTHING RETURNING 1)
         SELECT (SELECT count(*) FROM written), EXISTS (SELECT FROM pending_effects)",
    )
    .bind(column(|row| row.event.org_id.as_uuid()))
    .bind(column(|row| row.event.event_id.as_uuid()))
    .bind(offered.iter().map(|row| row.log_epoch).collect::<Vec<i32>>())
    .bind(offered.iter().map(|row| row.partition).collect::<Vec<i32>>())
    .bind(offered.iter().map(|row| row.offset).collect::<Vec<i64>>())
    .bind(offered.iter().map(|row| row.accepted_at_ms).collect::<Vec<i64>>())
    .bind(texts(|event| Some(&event.event_type)))
    .bind(texts(|event| Some(&event.payload)))
    .bind(offered.iter().map(|row| row.event.occurred_at).collect::<Vec<Option<i64>>>())
    .bind(texts(|event| event.source.as_deref()))
    .bind(texts(|event| event.ordering_key.as_deref()))
    .bind(metadata)
    .bind(texts(dedup_id))
    .fetch_one(connection)
    .await
}

fn metadata_json(event: &Event) -> Option<String> {
    if event.metadata.is_empty() {
        return None;
    }
    // Strings to strings: there is nothing in it that could fail.
    serde_json::to_string(&event.metadata).ok()
}

fn dedup_id(event: &Event) -> Option<&str> {
    event.dedup.as_ref().and_then(Dedup::shown_id)
}
