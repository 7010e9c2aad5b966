//! Reading a part of the log into the live view once more. What is there stays as it is, so it may be done as often as one likes.

use platform::health::Health;
use platform::kafka::KafkaConfig;
use platform::kafka::range;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::carry::milliseconds;
use super::course::{Course, Goals, Progress};
use super::{Alone, RebuildError, switch};
use crate::projector::generation::Generation;

/// Name of a replay in `consumer_positions`.
const REPLAY: &str = "materializer-replay";

/// What a replay did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// Records that were read.
    pub records: u64,
    /// The log begins later than asked for: what is before it could not be read.
    pub cut_short: bool,
}

/// Reads what was appended from `from` (inclusive) to `to` (exclusive; `None`: as far as the live view has come) and writes what of it is
/// missing: events, acknowledgements, attempts. Nothing is decided anew, no webhook is sent, and what is older than the retention or of
/// an erased organization is passed over.
///
/// # Errors
/// See [`RebuildError`]. What was written until then stays.
pub async fn replay(
    pool: PgPool,
    kafka: KafkaConfig,
    (from, to): (OffsetDateTime, Option<OffsetDateTime>),
    retention_days: u32,
    progress: impl Fn(Progress) + Send + Sync,
) -> Result<Replayed, RebuildError> {
    let _alone = Alone::begin(&pool).await?;
    let live = switch::live_places(&pool).await?;
    let mut goals = Goals::new();
    let mut cut_short = false;
    let mut transaction = pool.begin().await?;
    sqlx::query("DELETE FROM consumer_positions WHERE consumer = $1").bind(REPLAY).execute(&mut *transaction).await?;
    for topic in [&kafka.topics.events, &kafka.topics.acks, &kafka.topics.deliveries] {
        let places: Vec<_> = live.iter().filter(|place| place.topic == **topic).collect();
        let partitions: Vec<i32> = places.iter().map(|place| place.partition).collect();
        let begins = range::offsets_at(&kafka, topic, partitions.clone(), milliseconds(from)).await?;
        let ends = match to {
            Some(to) => Some(range::offsets_at(&kafka, topic, partitions, milliseconds(to)).await?),
            None => None,
        };
        let lows = range::bounds(&kafka, topic).await?;
        for place in places {
            let begin = begins.get(&place.partition).copied().unwrap_or(place.next_offset).min(place.next_offset);
            let end =
                ends.as_ref().and_then(|ends| ends.get(&place.partition)).copied().unwrap_or(place.next_offset).min(place.next_offset);
            // The first that is there may or may not be the first that was: where the log was cut, say so.
            cut_short |= lows.iter().any(|(partition, low, _)| *partition == place.partition && *low > 0 && begin == *low);
            goals.insert((topic.as_str().into(), place.partition), end);
            sqlx::query("INSERT INTO consumer_positions (consumer, topic, partition, log_epoch, next_offset) VALUES ($1, $2, $3, $4, $5)")
                .bind(REPLAY)
                .bind(topic)
                .bind(place.partition)
                .bind(place.log_epoch)
                .bind(begin)
                .execute(&mut *transaction)
                .await?;
        }
    }
    transaction.commit().await?;
    let mut course = Course::new(pool.clone(), kafka, (REPLAY, Generation::Live), retention_days, Health::new().component(REPLAY));
    let records = course.run_to(&goals, &progress).await?;
    sqlx::query("DELETE FROM consumer_positions WHERE consumer = $1").bind(REPLAY).execute(&pool).await?;
    Ok(Replayed { records, cut_short })
}
