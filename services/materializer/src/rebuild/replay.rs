//! Reads a part of the log into the live view again. Rows that exist stay as they are, so a replay may be repeated.

use kafka::{KafkaConfig, log_reader};
use runtime::health::Health;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::error::RebuildError;
use super::lock::RebuildLock;
use super::log_replayer::{LogReplayer, ReplayProgress};
use super::positions::{self, REPLAY, TargetOffsets, ViewPosition, epoch_millis, live_positions};
use super::preflight;
use crate::projector::generation::Generation;

/// Result of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// Number of offsets read.
    pub records: u64,
    /// The log starts later than asked for: older records could not be read.
    pub cut_short: bool,
}

/// Reads the records that were appended from `from` (inclusive) to `to` (exclusive; `None`: up to the position of the
/// live view), and writes the missing events, acks and attempts. Takes no duplicate decision and sends no webhook.
/// Skips records that are older than the retention or of an erased organization.
///
/// # Errors
/// See [`RebuildError`]. Rows that were written until then stay.
pub async fn replay(
    pool: PgPool,
    kafka: KafkaConfig,
    (from, to): (OffsetDateTime, Option<OffsetDateTime>),
    retention_days: u32,
    progress: impl Fn(ReplayProgress) + Send + Sync,
) -> Result<Replayed, RebuildError> {
    let lock = RebuildLock::acquire(&pool).await?;
    let done = replay_locked(&pool, kafka, (from, to), retention_days, progress).await;
    if done.is_err() {
        // Nothing continues a replay. If the positions cannot be deleted now, the next replay deletes them.
        let _deleted = delete_positions(&pool).await;
    }
    lock.release().await;
    done
}

async fn replay_locked(
    pool: &PgPool,
    kafka: KafkaConfig,
    times: (OffsetDateTime, Option<OffsetDateTime>),
    retention_days: u32,
    progress: impl Fn(ReplayProgress) + Send + Sync,
) -> Result<Replayed, RebuildError> {
    if times.0 >= times.1.unwrap_or_else(OffsetDateTime::now_utc) {
        let message = "the start of the replay is after its end, or in the future; give an earlier start";
        return Err(RebuildError::Unsuitable(message.to_owned()));
    }
    let live = live_positions(pool, &kafka.topics).await?;
    preflight::check_positions(pool, &kafka).await?;
    let mut ranges = Vec::new();
    for topic in [&kafka.topics.events, &kafka.topics.acks, &kafka.topics.deliveries] {
        let of_topic: Vec<&ViewPosition> = live.iter().filter(|position| position.topic == **topic).collect();
        ranges.extend(ranges_of(&kafka, topic, &of_topic, times).await?);
    }
    store_positions(pool, &ranges).await?;
    let targets: TargetOffsets = ranges.iter().map(|range| (range.start.topic_partition(), range.end)).collect();
    let component = Health::new().component(REPLAY);
    let mut replayer = LogReplayer::new(pool.clone(), kafka, (REPLAY, Generation::Live), retention_days, component);
    let records = replayer.run_to(&targets, &progress).await?;
    delete_positions(pool).await?;
    Ok(Replayed { records, cut_short: ranges.iter().any(|range| range.is_cut_short) })
}

/// Deletes the positions of a replay.
pub(super) async fn delete_positions(pool: &PgPool) -> Result<(), sqlx::Error> {
    positions::delete(&mut *pool.acquire().await?, REPLAY).await
}

/// The range of one partition to replay.
struct ReplayRange {
    start: ViewPosition,
    /// The first offset after the range.
    end: i64,
    is_cut_short: bool,
}

async fn ranges_of(
    kafka: &KafkaConfig,
    topic: &str,
    live: &[&ViewPosition],
    (from, to): (OffsetDateTime, Option<OffsetDateTime>),
) -> Result<Vec<ReplayRange>, RebuildError> {
    let partitions: Vec<i32> = live.iter().map(|position| position.partition).collect();
    let starts = log_reader::offsets_at(kafka, topic, partitions.clone(), epoch_millis(from)).await?;
    let ends = match to {
        Some(to) => Some(log_reader::offsets_at(kafka, topic, partitions, epoch_millis(to)).await?),
        None => None,
    };
    let bounds = log_reader::bounds(kafka, topic).await?;
    let range = |position: &&ViewPosition| {
        let (partition, live) = (position.partition, position.next_offset);
        let start = starts.get(&partition).copied().unwrap_or(live).min(live);
        let end = ends.as_ref().and_then(|ends| ends.get(&partition)).copied().unwrap_or(live).min(live);
        // Records before the start of a truncated log may or may not have been in the range: report it.
        let is_cut_short = bounds.iter().any(|(of, low, _)| *of == partition && *low > 0 && start == *low);
        ReplayRange { start: ViewPosition { next_offset: start, ..(*position).clone() }, end, is_cut_short }
    };
    Ok(live.iter().map(range).collect())
}

/// Stores the start positions, and deletes those that a killed replay has left.
async fn store_positions(pool: &PgPool, ranges: &[ReplayRange]) -> Result<(), sqlx::Error> {
    let starts: Vec<ViewPosition> = ranges.iter().map(|range| range.start.clone()).collect();
    let mut transaction = runtime::postgres::begin(pool).await?;
    positions::delete(&mut transaction, REPLAY).await?;
    positions::insert(&mut transaction, REPLAY, &starts).await?;
    transaction.commit().await
}
