//! Copies rows of the live view into the rebuilt one that cannot be read from the log, or shall not be: events before
//! the starting point of a rebuild, and the acks and attempts that are no longer on the log. Determines the starting
//! points.

use std::collections::BTreeMap;

use kafka::KafkaConfig;
use kafka::fence::skip;
use kafka::log_reader::{self, OffsetRange, OnTruncation};
use kafka::partition::TopicPartition;
use schemas::unix_time::from_millis;
use sqlx::postgres::{PgConnection, PgPool};
use time::OffsetDateTime;

use super::error::RebuildError;
use super::positions::{self, REBUILD, ViewPosition, epoch_millis, live_positions};
use crate::columns::column;
use crate::projector::CONSUMER;

/// Where a partition is read from.
#[derive(Debug, Clone)]
struct StartingPoint {
    position: ViewPosition,
    /// Append time of the first record that is read; older acks and attempts are copied. `None`: the log is complete.
    first_at: Option<OffsetDateTime>,
}

/// Copies the rows and stores the start positions, in one transaction. Returns the number of copied rows.
pub(super) async fn copy_forward(
    pool: &PgPool,
    kafka: &KafkaConfig,
    from: Option<OffsetDateTime>,
) -> Result<u64, RebuildError> {
    let starts = starting_points(pool, kafka, from).await?;
    let mut transaction =
        runtime::postgres::begin_with(pool, "BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL statement_timeout = 0")
            .await?;
    let topics = &kafka.topics;
    let of = |topic: &str| starts.iter().filter(|start| start.position.topic == topic).collect::<Vec<_>>();
    let (events, acks, deliveries) = (of(&topics.events), of(&topics.acks), of(&topics.deliveries));
    let mut copied = copy_events(&mut transaction, &events).await?;
    copy_acks(&mut transaction, &acks).await?;
    copied += copy_attempts(&mut transaction, &deliveries).await?;
    copy_pending_effects(&mut transaction, &acks, "ack").await?;
    copy_pending_effects(&mut transaction, &deliveries, "attempt").await?;
    let stored: Vec<ViewPosition> = starts.into_iter().map(|start| start.position).collect();
    positions::insert(&mut transaction, REBUILD, &stored).await?;
    transaction.commit().await?;
    Ok(copied)
}

/// Where to start reading each partition of the live view: at `from`, or at the start of its log.
async fn starting_points(
    pool: &PgPool,
    kafka: &KafkaConfig,
    from: Option<OffsetDateTime>,
) -> Result<Vec<StartingPoint>, RebuildError> {
    let live = live_positions(pool, &kafka.topics).await?;
    let mut starts = Vec::new();
    for topic in [&kafka.topics.events, &kafka.topics.acks, &kafka.topics.deliveries] {
        let bounds: BTreeMap<i32, (i64, i64)> = log_reader::bounds(kafka, topic)
            .await?
            .into_iter()
            .map(|(partition, low, high)| (partition, (low, high)))
            .collect();
        let asked = match from {
            Some(from) => {
                log_reader::offsets_at(kafka, topic, bounds.keys().copied().collect(), epoch_millis(from)).await?
            }
            None => Default::default(),
        };
        for live in live.iter().filter(|live| *live.topic == **topic) {
            let bounds = bounds.get(&live.partition).copied();
            let (low, position) = (checked_low(live, bounds)?, live.next_offset);
            let next_offset = asked.get(&live.partition).copied().unwrap_or(low).clamp(low, position);
            starts.push(StartingPoint { position: ViewPosition { next_offset, ..live.clone() }, first_at: None });
        }
    }
    let skips = skip::skipped_ranges(pool, CONSUMER).await?;
    read_first_times(kafka, skips, &mut starts).await?;
    Ok(starts)
}

/// The start of the log of a live position, which must be inside of its log.
fn checked_low(live: &ViewPosition, bounds: Option<(i64, i64)>) -> Result<i64, RebuildError> {
    let Some((low, high)) = bounds else {
        let message = format!(
            "{} no longer has partition {}; recreate the topic with all its partitions",
            live.topic, live.partition
        );
        return Err(RebuildError::Unsuitable(message));
    };
    if live.next_offset < low || live.next_offset > high {
        let message = format!(
            "the position of {}[{}] is outside of its log; see: triggers positions list",
            live.topic, live.partition
        );
        return Err(RebuildError::Unsuitable(message));
    }
    Ok(low)
}

/// Reads the first record of each partition of acks and deliveries: older acks and attempts are copied.
async fn read_first_times(
    kafka: &KafkaConfig,
    skips: Vec<OffsetRange>,
    starts: &mut [StartingPoint],
) -> Result<(), RebuildError> {
    let mut first: BTreeMap<TopicPartition, OffsetDateTime> = BTreeMap::new();
    let mut ranges = Vec::new();
    for topic in [&kafka.topics.acks, &kafka.topics.deliveries] {
        for (partition, _, high) in log_reader::bounds(kafka, topic).await? {
            let mut positions = starts.iter().map(|start| &start.position);
            if let Some(start) = positions.find(|start| start.topic == *topic && start.partition == partition)
                && start.next_offset < high
            {
                let (from, to) = (start.next_offset, start.next_offset + 1);
                ranges.push(OffsetRange { topic: topic.as_str().into(), partition, from, to });
            }
        }
    }
    let mut reader = log_reader::read(kafka, ranges, &skips, OnTruncation::Fail)?;
    while let Some(records) = reader.recv().await {
        for record in records? {
            first.insert((record.topic.clone(), record.partition), from_millis(record.timestamp_ms));
        }
    }
    for start in starts {
        // A log that starts at offset 0 in its first log epoch is complete. Without a first record, everything may be
        // older than the log.
        let is_complete = start.position.next_offset == 0 && start.position.log_epoch <= 1;
        let first_at = first.get(&start.position.topic_partition()).copied().unwrap_or(from_millis(i64::MAX));
        start.first_at = (!is_complete).then_some(first_at);
    }
    Ok(())
}

async fn copy_events(connection: &mut PgConnection, starts: &[&StartingPoint]) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO view_next.events SELECT e.* FROM view.events e
         LEFT JOIN UNNEST($1::integer[], $2::integer[], $3::bigint[]) AS b (log_partition, log_epoch, log_offset)
              USING (log_partition)
         WHERE b.log_partition IS NULL OR (e.log_epoch, e.log_offset) < (b.log_epoch, b.log_offset)",
    );
    let done = done
        .bind(column(starts, |start| start.position.partition))
        .bind(column(starts, |start| start.position.log_epoch))
        .bind(column(starts, |start| start.position.next_offset));
    Ok(done.execute(connection).await?.rows_affected())
}

/// Copies acks of events that are read from the log, as pending effects. The view does not have the partition of an
/// ack, which may differ from that of its event. So all acks from before the latest first record of any partition are
/// copied. Some of them are on the log too; applying those twice changes nothing.
async fn copy_acks(connection: &mut PgConnection, starts: &[&StartingPoint]) -> Result<(), sqlx::Error> {
    let Some(before) = starts.iter().filter_map(|start| start.first_at).max() else { return Ok(()) };
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

/// Copies attempts with their deliveries. The view does not have the partition of an attempt report. So all attempts
/// from before the latest first record of any partition are copied. Some of them are on the log too; applying those
/// twice changes nothing.
async fn copy_attempts(connection: &mut PgConnection, starts: &[&StartingPoint]) -> Result<u64, sqlx::Error> {
    let Some(before) = starts.iter().filter_map(|start| start.first_at).max() else { return Ok(0) };
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
    // For events that are read from the log: their status is computed when they are inserted.
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

/// Copies pending effects that are not read from the log. The offset of an effect of an older log means nothing in this
/// log, so its time is compared too. Copying an effect that is also read from the log changes nothing.
async fn copy_pending_effects(
    connection: &mut PgConnection,
    starts: &[&StartingPoint],
    effect: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO view_next.pending_effects SELECT p.* FROM view.pending_effects p
         JOIN UNNEST($1::integer[], $2::bigint[], $3::timestamptz[]) AS b (log_partition, start_offset, first_at)
              USING (log_partition)
         WHERE p.effect = $4 AND (p.log_offset < b.start_offset OR p.appended_at < b.first_at)
         ON CONFLICT DO NOTHING",
    )
    .bind(column(starts, |start| start.position.partition))
    .bind(column(starts, |start| start.position.next_offset))
    .bind(column(starts, |start| start.first_at))
    .bind(effect)
    .execute(connection)
    .await?;
    Ok(())
}
