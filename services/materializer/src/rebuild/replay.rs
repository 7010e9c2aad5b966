//! Reading a part of the log into the live view once more. What is there stays as it is, so it may be done as often as
//! one likes.

use platform::health::Health;
use platform::kafka::{KafkaConfig, log_reader};
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::carry::milliseconds;
use super::course::{Course, Goals, Progress};
use super::switch::LivePlace;
use super::{Alone, RebuildError, logs, switch};
use crate::projector::generation::Generation;

/// Name of a replay in `consumer_positions`. Nobody waits for it to come up: interrupted, it is left there.
pub const REPLAY: &str = "materializer-replay";

/// What a replay did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// Records that were read.
    pub records: u64,
    /// The log begins later than asked for: what is before it could not be read.
    pub cut_short: bool,
}

/// Reads what was appended from `from` (inclusive) to `to` (exclusive; `None`: as far as the live view has come) and
/// writes what of it is missing: events, acknowledgements, attempts. Nothing is decided anew, no webhook is sent, and
/// what is older than the retention or of an erased organization is passed over.
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
    let alone = Alone::begin(&pool).await?;
    let done = replay_alone(&pool, kafka, (from, to), retention_days, progress).await;
    if done.is_err() {
        // Of no use to anybody. Where it cannot be taken away now, the next replay does.
        let _forgotten = forget(&pool).await;
    }
    alone.end().await;
    done
}

async fn replay_alone(
    pool: &PgPool,
    kafka: KafkaConfig,
    times: (OffsetDateTime, Option<OffsetDateTime>),
    retention_days: u32,
    progress: impl Fn(Progress) + Send + Sync,
) -> Result<Replayed, RebuildError> {
    if times.0 >= times.1.unwrap_or_else(OffsetDateTime::now_utc) {
        return Err(RebuildError::Unsuitable("what is to be read begins after its end, or in the future".to_owned()));
    }
    let live = switch::live_places(pool, &kafka.topics).await?;
    logs::are_those_of_the_view(pool, &kafka).await?;
    let mut spans = Vec::new();
    for topic in [&kafka.topics.events, &kafka.topics.acks, &kafka.topics.deliveries] {
        let places: Vec<&LivePlace> = live.iter().filter(|place| place.topic == **topic).collect();
        spans.extend(spans_of(&kafka, topic, &places, times).await?);
    }
    begin(pool, &spans).await?;
    let goals: Goals =
        spans.iter().map(|span| ((span.place.topic.as_str().into(), span.place.partition), span.end)).collect();
    let mut course =
        Course::new(pool.clone(), kafka, (REPLAY, Generation::Live), retention_days, Health::new().component(REPLAY));
    let records = course.run_to(&goals, &progress).await?;
    forget(pool).await?;
    Ok(Replayed { records, cut_short: spans.iter().any(|span| span.is_cut_short) })
}

/// Takes away where a replay stands.
pub(super) async fn forget(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM consumer_positions WHERE consumer = $1").bind(REPLAY).execute(pool).await?;
    Ok(())
}

/// What is read of one place.
struct Span {
    place: LivePlace,
    begin: i64,
    /// First offset behind it.
    end: i64,
    is_cut_short: bool,
}

async fn spans_of(
    kafka: &KafkaConfig,
    topic: &str,
    places: &[&LivePlace],
    (from, to): (OffsetDateTime, Option<OffsetDateTime>),
) -> Result<Vec<Span>, RebuildError> {
    let partitions: Vec<i32> = places.iter().map(|place| place.partition).collect();
    let begins = log_reader::offsets_at(kafka, topic, partitions.clone(), milliseconds(from)).await?;
    let ends = match to {
        Some(to) => Some(log_reader::offsets_at(kafka, topic, partitions, milliseconds(to)).await?),
        None => None,
    };
    let lows = log_reader::bounds(kafka, topic).await?;
    let span = |place: &&LivePlace| {
        let live = place.next_offset;
        let begin = begins.get(&place.partition).copied().unwrap_or(live).min(live);
        let end = ends.as_ref().and_then(|ends| ends.get(&place.partition)).copied().unwrap_or(live).min(live);
        // The first that is there may or may not be the first that was: where the log was cut, say so.
        let is_cut_short =
            lows.iter().any(|(partition, low, _)| *partition == place.partition && *low > 0 && begin == *low);
        Span { place: (*place).clone(), begin, end, is_cut_short }
    };
    Ok(places.iter().map(span).collect())
}

/// Notes down where the reading begins.
async fn begin(pool: &PgPool, spans: &[Span]) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query("DELETE FROM consumer_positions WHERE consumer = $1").bind(REPLAY).execute(&mut *transaction).await?;
    sqlx::query(
        "INSERT INTO consumer_positions (consumer, topic, partition, log_epoch, next_offset)
         SELECT $1, * FROM UNNEST($2::text[], $3::integer[], $4::integer[], $5::bigint[])",
    )
    .bind(REPLAY)
    .bind(spans.iter().map(|span| span.place.topic.as_str()).collect::<Vec<&str>>())
    .bind(spans.iter().map(|span| span.place.partition).collect::<Vec<i32>>())
    .bind(spans.iter().map(|span| span.place.log_epoch).collect::<Vec<i32>>())
    .bind(spans.iter().map(|span| span.begin).collect::<Vec<i64>>())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}
