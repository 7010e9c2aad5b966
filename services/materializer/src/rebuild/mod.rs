//! Reading the log again: a rebuild of the view beside the one that is read, and a replay into it.
//!
//! Both write through the projector's own flush, with positions of their own, and take no duplicate decision: those in
//! `event_ids` are read. Neither sends a webhook or writes a dead letter. Lives here: what is read (`course`), what
//! the log no longer tells (`carry`), whether two generations are equal (`compare`), whether the log is still the
//! view's (`logs`), the moment one takes the other's place (`switch`), and that nobody else does the same (`alone`).
//! Reading Kafka is `platform`'s.

mod alone;
mod carry;
mod compare;
mod course;
mod logs;
mod replay;
mod switch;

use std::time::Duration;

use platform::health::Health;
use platform::kafka::KafkaConfig;
use platform::kafka::log_reader::ReadError;
use rdkafka::error::KafkaError;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

pub use compare::Difference;
pub use course::Progress;
pub use replay::{REPLAY, Replayed, replay};

use crate::projector::generation::Generation;
use alone::Alone;
use course::Course;

/// Name of a rebuild in `consumer_positions`.
const REBUILD: &str = "materializer-rebuild";
/// As long as more than so many records are left, the live view goes on meanwhile.
const NEAR: i64 = 2_000;
/// Rounds of catching up before the live view is held whatever is left.
const ROUNDS: usize = 20;

/// What to rebuild, and when to be content.
#[derive(Debug, Clone)]
pub struct RebuildConfig {
    /// Events accepted before it are copied from the live view; `None`: from where the log begins.
    pub from: Option<OffsetDateTime>,
    /// As the materializers have it, days.
    pub retention_days: u32,
    /// Take the rebuilt view although it differs: the live one was wrong.
    pub accept_differences: bool,
    /// Throw away what an interrupted rebuild has made, instead of going on with it.
    pub restart: bool,
    /// Compare, leave the live view as it is, and throw away what was made.
    pub dry_run: bool,
}

/// What a rebuild did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// Records that were read in this run.
    pub records: u64,
    /// Rows that were copied, because the log no longer tells of them (or was not to be asked).
    pub carried: u64,
    /// It went on with a rebuild that was interrupted, or that ended with differences.
    pub resumed: bool,
    /// For how long the live view was held still: nothing was lost meanwhile, but nothing new was shown either.
    pub held: Duration,
    /// What differs, by organization; empty when the two were equal.
    pub differences: Vec<Difference>,
    /// Whether the rebuilt view is now the live one.
    pub switched: bool,
}

/// Why reading the log again ended.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Somebody else does it at the moment.
    #[error("another rebuild or replay, or an erasure, is at work: {0}")]
    Busy(String),
    /// The materializer has positions of its own in a log that has changed since.
    #[error("{0}")]
    Unsuitable(String),
    /// The log could not be read.
    #[error("the log could not be read: {0}")]
    Log(#[from] ReadError),
    /// Kafka did not answer.
    #[error("Kafka did not answer: {0}")]
    Kafka(#[from] KafkaError),
    #[error("PostgreSQL: {0}")]
    Sql(#[from] sqlx::Error),
    /// The view could not be written.
    #[error(transparent)]
    View(#[from] crate::projector::Error),
}

/// Builds the next generation of the view from the log, compares it with the live one at exactly its positions, and
/// puts it in its place. Interrupted, it goes on where it was when it is run again. The live view is read and written
/// all the while, but for the last moment.
///
/// # Errors
/// See [`RebuildError`]; the live view is as it was then.
pub async fn rebuild(
    pool: PgPool,
    kafka: KafkaConfig,
    config: RebuildConfig,
    progress: impl Fn(Progress) + Send + Sync,
) -> Result<Rebuilt, RebuildError> {
    let alone = Alone::begin(&pool).await?;
    let done = rebuild_alone(&pool, kafka, config, progress).await;
    alone.end().await;
    done
}

async fn rebuild_alone(
    pool: &PgPool,
    kafka: KafkaConfig,
    config: RebuildConfig,
    progress: impl Fn(Progress) + Send + Sync,
) -> Result<Rebuilt, RebuildError> {
    if config.from.is_some_and(|from| from > OffsetDateTime::now_utc()) {
        return Err(RebuildError::Unsuitable("what is to be read begins in the future".to_owned()));
    }
    switch::live_places(pool, &kafka.topics).await?;
    logs::are_those_of_the_view(pool, &kafka).await?;
    switch::drop_retired(pool).await?;
    let resumed = begin(pool, config.restart).await?;
    if resumed && config.from.is_some() {
        let message = "an unfinished rebuild is there, which began elsewhere: go on with it (without a begin), or begin anew with --restart";
        return Err(RebuildError::Unsuitable(message.to_owned()));
    }
    let mut course = Course::new(
        pool.clone(),
        kafka.clone(),
        (REBUILD, Generation::Next),
        config.retention_days,
        Health::new().component(REBUILD),
    );
    let mut carried = 0;
    if !resumed {
        let carrying = carry::begin(pool, &kafka, config.from).await;
        if carrying.is_err() {
            // An empty generation is nothing to go on with, and would hold erasures back.
            drop_generation(pool).await?;
        }
        carried = carrying?;
    }
    let mut records = 0;
    for _ in 0..ROUNDS {
        let goals = switch::live_positions(pool, &kafka.topics).await?;
        let left = course.left(&goals).await?;
        if left <= NEAR {
            break;
        }
        records += course.run_to(&goals, &progress).await?;
    }
    // The log may have become another one meanwhile. It would be read as the one that the view stands in.
    logs::are_those_of_the_view(pool, &kafka).await?;
    let switch = switch::Switch { pool, accept_differences: config.accept_differences, dry_run: config.dry_run };
    let outcome = switch.run(&mut course, &progress).await?;
    if config.dry_run {
        drop_generation(pool).await?;
    }
    Ok(Rebuilt {
        records: records + outcome.records,
        carried,
        resumed,
        held: outcome.held,
        differences: outcome.differences,
        switched: outcome.switched,
    })
}

/// Takes away what an unfinished rebuild or replay has left.
pub async fn abandon(pool: &PgPool) -> Result<(), RebuildError> {
    let alone = Alone::begin(pool).await?;
    let done = async {
        switch::drop_retired(pool).await?;
        replay::forget(pool).await?;
        drop_generation(pool).await
    };
    let done = done.await;
    alone.end().await;
    Ok(done?)
}

/// `true`: there was one that goes on.
async fn begin(pool: &PgPool, restart: bool) -> Result<bool, RebuildError> {
    let exists: bool = sqlx::query_scalar("SELECT to_regnamespace('view_next') IS NOT NULL").fetch_one(pool).await?;
    // Carried over is what the positions begin behind; without them it was cut off while it copied.
    let has_positions: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM consumer_positions WHERE consumer = $1)")
        .bind(REBUILD)
        .fetch_one(pool)
        .await?;
    if exists && has_positions && !restart {
        return Ok(true);
    }
    if exists {
        drop_generation(pool).await?;
    }
    let mut transaction = pool.begin().await?;
    sqlx::query("DELETE FROM consumer_positions WHERE consumer = $1").bind(REBUILD).execute(&mut *transaction).await?;
    sqlx::query("SELECT view_create_next()").execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(false)
}

async fn drop_generation(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin_with("BEGIN; SET LOCAL statement_timeout = 0").await?;
    sqlx::query("DELETE FROM consumer_positions WHERE consumer = $1").bind(REBUILD).execute(&mut *transaction).await?;
    sqlx::query("DROP SCHEMA IF EXISTS view_next CASCADE").execute(&mut *transaction).await?;
    transaction.commit().await
}
