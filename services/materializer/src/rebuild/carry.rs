//! What a rebuild copies from the live view, because the log no longer tells of it or is not to be asked: events before
//! the reading begins, and what happened to events before the acks and deliveries that are still on the log begin. And
//! where the reading begins.

use std::collections::BTreeMap;

use platform::fence::skip;
use platform::kafka::KafkaConfig;
use platform::kafka::log_reader::{self, OnTruncation, Span};
use schemas::unix_time::{from_millis, to_millis};
use sqlx::postgres::{PgConnection, PgPool};
use time::OffsetDateTime;

use super::{REBUILD, RebuildError, switch};
use crate::projector::CONSUMER;

/// Where a place is read from.
#[derive(Debug, Clone)]
struct Begin {
    topic: String,
    partition: i32,
    log_epoch: i32,
    offset: i64,
    /// Append time of the first record that is read; what happened before it is carried. `None`: everything that ever
    /// was is read.
    first_at: Option<OffsetDateTime>,
}

/// Copies, and notes down where the reading begins, in one transaction. Answers how many rows were copied.
pub(super) async fn begin(
    pool: &PgPool,
    kafka: &KafkaConfig,
    from: Option<OffsetDateTime>,
) -> Result<u64, RebuildError> {
    let begins = begins(pool, kafka, from).await?;
    let mut transaction =
        pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL statement_timeout = 0").await?;
    let topics = &kafka.topics;
    let of = |topic: &str| begins.iter().filter(|begin| begin.topic == topic).collect::<Vec<_>>();
    let (events, acks, deliveries) = (of(&topics.events), of(&topics.acks), of(&topics.deliveries));
    let mut carried = carry_events(&mut transaction, &events).await?;
    carry_acks(&mut transaction, &acks).await?;
    carried += carry_attempts(&mut transaction, &deliveries).await?;
    carry_waiting(&mut transaction, &acks, "ack").await?;
    carry_waiting(&mut transaction, &deliveries, "attempt").await?;
    note_positions(&mut transaction, &begins).await?;
    transaction.commit().await?;
    Ok(carried)
}

async fn begins(pool: &PgPool, kafka: &KafkaConfig, from: Option<OffsetDateTime>) -> Result<Vec<Begin>, RebuildError> {
    let live = switch::live_places(pool, &kafka.topics).await?;
    let mut begins = Vec::new();
    for topic in [&kafka.topics.events, &kafka.topics.acks, &kafka.topics.deliveries] {
        let bounds: BTreeMap<i32, (i64, i64)> = log_reader::bounds(kafka, topic)
            .await?
            .into_iter()
            .map(|(partition, low, high)| (partition, (low, high)))
            .collect();
        let asked = match from {
            Some(from) => {
                log_reader::offsets_at(kafka, topic, bounds.keys().copied().collect(), milliseconds(from)).await?
            }
            None => Default::default(),
        };
        for place in live.iter().filter(|place| *place.topic == **topic) {
            let Some((low, high)) = bounds.get(&place.partition).copied() else {
                return Err(RebuildError::Unsuitable(format!("{topic} has no partition {} any more", place.partition)));
            };
            if place.next_offset < low || place.next_offset > high {
                let message = format!(
                    "the position of {topic}[{}] is outside of the log; see: triggers positions list",
                    place.partition
                );
                return Err(RebuildError::Unsuitable(message));
            }
            let offset = asked.get(&place.partition).copied().unwrap_or(low).clamp(low, place.next_offset);
            begins.push(Begin {
                topic: topic.clone(),
                partition: place.partition,
                log_epoch: place.log_epoch,
                offset,
                first_at: None,
            });
        }
    }
    let skips = skip::skipped(pool, CONSUMER).await?;
    note_first_times(kafka, skips, &mut begins).await?;
    Ok(begins)
}

/// Reads one record of each place of acks and deliveries: what happened to events is carried by its time.
async fn note_first_times(kafka: &KafkaConfig, skips: Vec<Span>, begins: &mut [Begin]) -> Result<(), RebuildError> {
    let mut first: BTreeMap<(String, i32), OffsetDateTime> = BTreeMap::new();
    let ends = |begin: &Begin| (begin.topic.clone(), begin.partition);
    let mut spans = Vec::new();
    for topic in [&kafka.topics.acks, &kafka.topics.deliveries] {
        for (partition, _, high) in log_reader::bounds(kafka, topic).await? {
            if let Some(begin) =
                begins.iter().find(|begin| begin.topic == *topic && begin.partition == partition && begin.offset < high)
            {
                spans.push(Span { topic: topic.as_str().into(), partition, from: begin.offset, to: begin.offset + 1 });
            }
        }
    }
    let mut inflow = log_reader::read(kafka, spans, &skips, OnTruncation::Fail)?;
    while let Some(records) = inflow.recv().await {
        for record in records? {
            first.insert((record.topic.to_string(), record.partition), from_millis(record.timestamp_ms));
        }
    }
    for begin in begins {
        // A log that begins at 0 in its first epoch tells everything. Without a record to go by, everything may be
        // older.
        let is_whole = begin.offset == 0 && begin.log_epoch <= 1;
        begin.first_at = (!is_whole).then(|| first.get(&ends(begin)).copied().unwrap_or(from_millis(i64::MAX)));
    }
    Ok(())
}

async fn carry_events(connection: &mut PgConnection, begins: &[&Begin]) -> Result<u64, sqlx::Error> {
    let (partitions, epochs, offsets) = places(begins);
    let done = sqlx::query(
        "INSERT INTO view_next.events SELECT e.* FROM view.events e
         LEFT JOIN UNNEST($1::integer[], $2::integer[], $3::bigint[]) AS b (log_partition, log_epoch, log_offset)
              USING (log_partition)
         WHERE b.log_partition IS NULL OR (e.log_epoch, e.log_offset) < (b.log_epoch, b.log_offset)",
    );
    Ok(done.bind(partitions).bind(epochs).bind(offsets).execute(connection).await?.rows_affected())
}

/// An event that is read again, and whose ack is not: the ack waits for it. An ack says not in which partition it was
/// written, which need not be that of its event: those from before the last of the partitions begins are carried, which
/// repeats what some of the records tell, and changes nothing.
async fn carry_acks(connection: &mut PgConnection, begins: &[&Begin]) -> Result<(), sqlx::Error> {
    let Some(before) = begins.iter().filter_map(|begin| begin.first_at).max() else { return Ok(()) };
    sqlx::query(
        "INSERT INTO view_next.pending_effects (org_id, event_id, effect, log_partition, log_offset, item, appended_at)
         SELECT e.org_id, e.event_id, 'ack', e.log_partition, -1, 0, e.acknowledged_at FROM view.events e
         WHERE e.acknowledged_at < $1
               AND NOT EXISTS (SELECT FROM view_next.events n WHERE n.org_id = e.org_id AND n.event_id = e.event_id)
         ON CONFLICT DO NOTHING",
    )
    .bind(before)
    .execute(connection)
    .await?;
    Ok(())
}

/// Deliveries say not in which partition they were reported: those from before the last of the partitions begins are
/// carried, which repeats what some of the records tell, and changes nothing.
async fn carry_attempts(connection: &mut PgConnection, begins: &[&Begin]) -> Result<u64, sqlx::Error> {
    let Some(before) = begins.iter().filter_map(|begin| begin.first_at).max() else { return Ok(0) };
    let attempts = sqlx::query(
        "INSERT INTO view_next.delivery_attempts SELECT * FROM view.delivery_attempts WHERE appended_at < $1",
    );
    let attempts = attempts.bind(before).execute(&mut *connection).await?.rows_affected();
    let deliveries = sqlx::query(
        "INSERT INTO view_next.deliveries SELECT d.* FROM view.deliveries d
         WHERE EXISTS (SELECT FROM view_next.delivery_attempts a
                       WHERE a.org_id = d.org_id AND a.delivery_id = d.delivery_id)",
    );
    let deliveries = deliveries.execute(&mut *connection).await?.rows_affected();
    // An event that is read again, and whose attempts are not: their sum is taken when it is there.
    sqlx::query(
        "INSERT INTO view_next.pending_effects (org_id, event_id, effect, log_partition, log_offset, item, appended_at)
         SELECT e.org_id, e.event_id, 'attempt', e.log_partition, -1, 0, e.accepted_at
         FROM (SELECT DISTINCT org_id, event_id FROM view_next.deliveries) d JOIN view.events e USING (org_id, event_id)
         WHERE NOT EXISTS (SELECT FROM view_next.events n WHERE n.org_id = e.org_id AND n.event_id = e.event_id)
         ON CONFLICT DO NOTHING",
    )
    .execute(connection)
    .await?;
    Ok(attempts + deliveries)
}

/// What waits and is not read again. The offset of one from an older log says nothing about this log; its time does.
/// Carrying one that is read again as well changes nothing.
async fn carry_waiting(connection: &mut PgConnection, begins: &[&Begin], effect: &str) -> Result<(), sqlx::Error> {
    let (partitions, _, offsets) = places(begins);
    sqlx::query(
        "INSERT INTO view_next.pending_effects SELECT p.* FROM view.pending_effects p
         JOIN UNNEST($1::integer[], $2::bigint[], $3::timestamptz[]) AS b (log_partition, begin_offset, first_at)
              USING (log_partition)
         WHERE p.effect = $4 AND (p.log_offset < b.begin_offset OR p.appended_at < b.first_at)
         ON CONFLICT DO NOTHING",
    )
    .bind(partitions)
    .bind(offsets)
    .bind(begins.iter().map(|begin| begin.first_at).collect::<Vec<Option<OffsetDateTime>>>())
    .bind(effect)
    .execute(connection)
    .await?;
    Ok(())
}

async fn note_positions(connection: &mut PgConnection, begins: &[Begin]) -> Result<(), sqlx::Error> {
    let all: Vec<&Begin> = begins.iter().collect();
    let (partitions, epochs, offsets) = places(&all);
    sqlx::query(
        "INSERT INTO consumer_positions (consumer, topic, partition, log_epoch, next_offset)
         SELECT $1, * FROM UNNEST($2::text[], $3::integer[], $4::integer[], $5::bigint[])",
    )
    .bind(REBUILD)
    .bind(begins.iter().map(|begin| begin.topic.as_str()).collect::<Vec<&str>>())
    .bind(partitions)
    .bind(epochs)
    .bind(offsets)
    .execute(connection)
    .await?;
    Ok(())
}

/// Partitions, log epochs and offsets, as one array each.
fn places(begins: &[&Begin]) -> (Vec<i32>, Vec<i32>, Vec<i64>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for begin in begins {
        columns.0.push(begin.partition);
        columns.1.push(begin.log_epoch);
        columns.2.push(begin.offset);
    }
    columns
}

/// Milliseconds since the Unix epoch; 0 for what is before it, where no log reaches back to and Kafka takes no number.
pub(super) fn milliseconds(time: OffsetDateTime) -> i64 {
    to_millis(time).max(0)
}
