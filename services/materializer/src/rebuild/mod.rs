//! Reads the log again: a rebuild of the view beside the live one, and a replay into the live one.
//!
//! Both write through the flush of the projector, under their own positions. They read the duplicate decisions in
//! `event_ids` and take none. They send no webhook and write no dead letter.
//!
//! Lives here: reading a part of the log (`log_replayer`), copying rows that the log no longer has (`copy_forward`),
//! comparing two generations (`compare`), checking that the log is still the one of the view (`preflight`), switching
//! to the next generation (`switch`), and excluding concurrent runs (`lock`). Does not live here: reading Kafka
//! (`kafka`).

mod compare;
mod copy_forward;
mod error;
mod lock;
mod log_replayer;
mod positions;
mod preflight;
mod replay;
mod switch;

use std::time::Duration;

use kafka::KafkaConfig;
use runtime::health::Health;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

pub use compare::ViewDifference;
pub use error::RebuildError;
pub use log_replayer::ReplayProgress;
pub use positions::REPLAY;
pub use replay::{Replayed, replay};

use crate::projector::generation::Generation;
use lock::RebuildLock;
use log_replayer::LogReplayer;
use positions::{REBUILD, live_positions, live_targets};
use switch::Switchover;

/// The live positions are locked only when at most so many records are left to read.
const MAX_REMAINING: i64 = 2_000;
/// Rounds of catching up with the live view before its positions are locked anyway.
const MAX_ROUNDS: usize = 20;

#[derive(Debug, Clone)]
pub struct RebuildConfig {
    /// Events accepted before it are copied from the live view; `None`: everything on the log is read.
    pub from: Option<OffsetDateTime>,
    /// Retention of the materializers, days.
    pub retention_days: u32,
    /// Switch to the rebuilt view even if it differs: the live view was wrong.
    pub accept_differences: bool,
    /// Delete the tables of an interrupted rebuild instead of continuing it.
    pub restart: bool,
    /// Only compare: keep the live view, and delete the rebuilt one.
    pub dry_run: bool,
}

/// Result of a rebuild.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// Number of offsets read in this run.
    pub records: u64,
    /// Number of rows that were copied from the live view, because they are no longer on the log, or before `from`.
    pub carried: u64,
    /// The run continued a rebuild that was interrupted, or that found differences.
    pub resumed: bool,
    /// How long the live positions were locked. The live view showed no new events in that time; none was lost.
    pub held: Duration,
    /// Differences between the two views; empty if they were equal.
    pub differences: Vec<ViewDifference>,
    /// Whether the rebuilt view is live now.
    pub switched: bool,
}

/// Builds the next generation of the view from the log, compares it with the live one at exactly the live positions,
/// and switches to it. A rebuild that was interrupted continues when it is run again. The live view is read all the
/// time, and written until its positions are locked for the end of the rebuild.
///
/// # Errors
/// See [`RebuildError`]; the live view is unchanged then.
pub async fn rebuild(
    pool: PgPool,
    kafka: KafkaConfig,
    config: RebuildConfig,
    progress: impl Fn(ReplayProgress) + Send + Sync,
) -> Result<Rebuilt, RebuildError> {
    let lock = RebuildLock::acquire(&pool).await?;
    let done = rebuild_locked(&pool, kafka, config, progress).await;
    lock.release().await;
    done
}

async fn rebuild_locked(
    pool: &PgPool,
    kafka: KafkaConfig,
    config: RebuildConfig,
    progress: impl Fn(ReplayProgress) + Send + Sync,
) -> Result<Rebuilt, RebuildError> {
    if config.from.is_some_and(|from| from > OffsetDateTime::now_utc()) {
        return Err(RebuildError::Unsuitable(
            "the start of the rebuild is in the future; give an earlier one".to_owned(),
        ));
    }
    live_positions(pool, &kafka.topics).await?;
    preflight::check_positions(pool, &kafka).await?;
    switch::drop_retired(pool).await?;
    let resumed = create_or_resume(pool, config.restart).await?;
    if resumed && config.from.is_some() {
        let message = "an unfinished rebuild exists, with another start: continue it without a start, or start \
                       again with --restart";
        return Err(RebuildError::Unsuitable(message.to_owned()));
    }
    let mut replayer = LogReplayer::new(
        pool.clone(),
        kafka.clone(),
        (REBUILD, Generation::Next),
        config.retention_days,
        Health::new().component(REBUILD),
    );
    let mut carried = 0;
    if !resumed {
        let copied = copy_forward::copy_forward(pool, &kafka, config.from).await;
        if copied.is_err() {
            // A rebuild cannot continue from an empty generation, and its tables would block erasures.
            drop_generation(pool).await?;
        }
        carried = copied?;
    }
    let mut records = 0;
    for _ in 0..MAX_ROUNDS {
        let targets = live_targets(pool, &kafka.topics).await?;
        if replayer.remaining(&targets).await? <= MAX_REMAINING {
            break;
        }
        records += replayer.run_to(&targets, &progress).await?;
    }
    // A topic may have been recreated meanwhile; the live positions are not of the new log.
    preflight::check_positions(pool, &kafka).await?;
    let switchover = Switchover { pool, accept_differences: config.accept_differences, dry_run: config.dry_run };
    let outcome = switchover.run(&mut replayer, &progress).await?;
    if config.dry_run {
        drop_generation(pool).await?;
    }
    Ok(Rebuilt {
        records: records + outcome.records,
        carried,
        resumed,
        held: outcome.locked,
        differences: outcome.differences,
        switched: outcome.switched,
    })
}

/// Deletes the tables and positions of an unfinished rebuild or replay.
pub async fn abandon(pool: &PgPool) -> Result<(), RebuildError> {
    let lock = RebuildLock::acquire(pool).await?;
    let done = async {
        switch::drop_retired(pool).await?;
        replay::delete_positions(pool).await?;
        drop_generation(pool).await
    };
    let done = done.await;
    lock.release().await;
    Ok(done?)
}

/// Creates the next generation, unless an unfinished one can be continued (`true`).
async fn create_or_resume(pool: &PgPool, restart: bool) -> Result<bool, RebuildError> {
    let exists: bool = sqlx::query_scalar("SELECT to_regnamespace('view_next') IS NOT NULL").fetch_one(pool).await?;
    // Positions are stored together with the copied rows. Without positions the rebuild was interrupted while it
    // copied.
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
    let mut transaction = runtime::postgres::begin(pool).await?;
    positions::delete(&mut transaction, REBUILD).await?;
    sqlx::query("SELECT view_create_next()").execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(false)
}

async fn drop_generation(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut transaction = runtime::postgres::begin_with(pool, "BEGIN; SET LOCAL statement_timeout = 0").await?;
    positions::delete(&mut transaction, REBUILD).await?;
    sqlx::query("DROP SCHEMA IF EXISTS view_next CASCADE").execute(&mut *transaction).await?;
    transaction.commit().await
}
