//! One batch into the tables: one transaction over all its partitions, and what is done when it does not go through.
//!
//! Each error names its effect: a conflict is tried again, an absent database is waited for, a row that PostgreSQL
//! refuses is found by halving and becomes a dead letter, a lost claim is left to its new owner, and anything else ends
//! the projector.

mod acks;
mod apply;
mod attempts;
mod event_ids;
mod events;
mod expired;
mod filter;
pub(crate) mod pending_effects;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use platform::fence::{self, Advance, Standing};
use platform::health::Component;
use platform::kafka::producer::Producer;
use platform::postgres::{SqlEffect, effect};
use platform::retry::Backoff;
use schemas::native::Unreadable;
use schemas::topics::TopicNames;
use sqlx::postgres::PgPool;
use tracing::{debug, info, warn};

use super::batch::{Batch, Hold, Place};
use super::decode::{Content, Item, decode};
use super::generation::Generation;
use super::organizations::Organizations;
use super::time_partitions::{self, TimePartitions};
use super::{CONSUMER, Error};
use crate::dead_letters::write;
use crate::metrics::METRICS;
use crate::rejected::rows as rejected;
use event_ids::Lookup;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Whether records are read for the first time.
#[derive(Clone)]
pub(crate) enum Reading {
    /// They are: which of two is the original is decided, and what nobody can read becomes a dead letter.
    First(Producer),
    /// They were before (a rebuild, a replay): decisions are read and none is taken, and no dead letter is written
    /// again.
    Again,
}

pub(crate) struct Flusher {
    pool: PgPool,
    /// Whose positions move with them.
    consumer: &'static str,
    generation: Generation,
    reading: Reading,
    time_partitions: TimePartitions,
    topics: TopicNames,
    organizations: Organizations,
    component: Component,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Places that were written, and how they stand now.
    pub(crate) written: Vec<(Place, Hold)>,
    /// Places that somebody else has claimed, with the epoch that was lost.
    pub(crate) lost: Vec<(Place, i64)>,
}

/// What became of one transaction.
enum Attempted {
    Committed,
    /// These places are somebody else's; nothing was written.
    Lost(Vec<Place>),
    /// A time partition was dropped meanwhile; nothing was written.
    NoRoom,
    /// PostgreSQL refuses some row; nothing was written.
    Refused(sqlx::Error),
}

/// Why one transaction did not go through.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    #[error("another writer took a dedup key or an event id meanwhile")]
    Raced,
}

impl Flusher {
    /// The one that writes what the inbox reads.
    pub(crate) fn live(
        pool: PgPool,
        producer: Producer,
        topics: TopicNames,
        component: Component,
        retention_days: u32,
    ) -> Self {
        Self::new(pool, (CONSUMER, Generation::Live), Reading::First(producer), topics, component, retention_days)
    }

    /// One that writes into `generation` what was read before, and moves the positions of `consumer`.
    pub(crate) fn again(
        pool: PgPool,
        (consumer, generation): (&'static str, Generation),
        topics: TopicNames,
        component: Component,
        retention_days: u32,
    ) -> Self {
        Self::new(pool, (consumer, generation), Reading::Again, topics, component, retention_days)
    }

    fn new(
        pool: PgPool,
        (consumer, generation): (&'static str, Generation),
        reading: Reading,
        topics: TopicNames,
        component: Component,
        retention_days: u32,
    ) -> Self {
        let time_partitions = TimePartitions::new(pool.clone(), generation, retention_days);
        let organizations = Organizations::default();
        Self { pool, consumer, generation, reading, time_partitions, topics, organizations, component }
    }

    /// Writes the batch, whole, but for places that are lost. Waits for what passes by itself.
    pub(crate) async fn flush(&self, batch: Batch) -> Result<Outcome, Error> {
        let begun = Instant::now();
        METRICS.flush_records.observe(batch.records.len() as f64);
        let mut holds = batch.holds;
        let mut outcome = Outcome::default();
        let mut items: Vec<Item> = batch.records.into_iter().map(|record| decode(record, &self.topics)).collect();
        self.filter_organizations(&mut items).await?;
        if matches!(self.reading, Reading::Again) {
            self.skip_refused(&mut items, &holds).await?;
        }
        let dead = items.iter().filter_map(|item| match &item.content {
            Content::Dead(reason) => Some((&item.record, reason)),
            _ => None,
        });
        if let Reading::First(producer) = &self.reading {
            write::write_all(producer, &self.topics, &self.component, dead).await;
        }
        let mut parts = VecDeque::from([items]);
        while let Some(mut part) = parts.pop_front() {
            part.retain(|item| holds.contains_key(&place_of(item)));
            if part.is_empty() {
                continue;
            }
            self.make_room(&mut part).await?;
            match self.write(&part, &holds).await? {
                Attempted::Committed => note_written(&part, &mut holds),
                Attempted::Lost(places) => {
                    for place in places {
                        METRICS.fenced.inc();
                        outcome.lost.extend(holds.remove(&place).map(|hold| (place, hold.epoch)));
                    }
                    parts.push_front(part);
                }
                Attempted::NoRoom => {
                    self.time_partitions.forget();
                    parts.push_front(part);
                }
                Attempted::Refused(error) => self.halve(part, error, &mut parts).await?,
            }
        }
        outcome.written = holds.into_iter().collect();
        METRICS.flush_seconds.observe(begun.elapsed().as_secs_f64());
        Ok(outcome)
    }

    /// Tries to write `part` in one transaction until its fate is known.
    async fn write(&self, part: &[Item], holds: &BTreeMap<Place, Hold>) -> Result<Attempted, Error> {
        let moves = moves_of(part, holds);
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut lookup = Lookup::Expected;
        loop {
            match self.transaction(part, holds, &moves, lookup).await {
                // Health is told when the batch is settled, by who knows of stopped partitions too.
                Ok(true) => return Ok(Attempted::Committed),
                Ok(false) => info!("A position was not where it was left; looking who moved it."),
                Err(Failure::Raced) => {
                    debug!("Another writer took a dedup key or an event id meanwhile; deciding again.");
                    lookup = Lookup::All;
                }
                Err(Failure::Sql(error)) if time_partitions::is_missing(&error) => return Ok(Attempted::NoRoom),
                Err(Failure::Sql(error)) => match effect(&error) {
                    SqlEffect::Data => return Ok(Attempted::Refused(error)),
                    SqlEffect::Fatal => return Err(Error::View(error)),
                    SqlEffect::Retry => debug!(%error, "A transaction met another one; trying again."),
                    SqlEffect::Unavailable => {
                        self.component.down(format!("PostgreSQL: {error}"));
                        backoff.pause().await;
                    }
                },
            }
            // Whether it was committed may be unknown: the positions know.
            let standings = self.until_answered(|| fence::standing(&self.pool, self.consumer, &moves)).await?;
            if standings.contains(&Standing::Committed) {
                // One transaction: where one position was moved, all rows were written.
                return Ok(Attempted::Committed);
            }
            let lost = moves.iter().zip(&standings).filter(|(_, standing)| **standing == Standing::Lost);
            let lost: Vec<Place> = lost.map(|(step, _)| (step.topic.clone(), step.partition)).collect();
            if !lost.is_empty() {
                return Ok(Attempted::Lost(lost));
            }
        }
    }

    /// Writes `part` with its positions. `false`: a position did not match, and nothing was written.
    ///
    /// A batch of events that ingest made without dedup keys takes two statements between BEGIN and COMMIT: (1) advance
    /// the positions, (4) insert the events. Events with dedup keys, or with ids that other records may name, add two:
    /// (2) read decisions and lock the holders of keys, (3) store new ones. Where effects of these events are pending,
    /// (5) takes and applies them, and (6) computes the delivery statuses of those that were attempted. So no batch of
    /// events takes more than six. Acks add one statement, attempts five, rejected and expired records one each.
    async fn transaction(
        &self,
        part: &[Item],
        holds: &BTreeMap<Place, Hold>,
        moves: &[Advance],
        lookup: Lookup,
    ) -> Result<bool, Failure> {
        let mut transaction = self.pool.begin_with(self.generation.begin()).await?;
        // First, because it is the fence: from here on nobody else can claim these places before this transaction ends.
        let moved = fence::advance(&mut transaction, self.consumer, moves).await?;
        if moved.contains(&false) {
            transaction.rollback().await?;
            return Ok(false);
        }
        self.apply(&mut transaction, part, holds, lookup).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Splits a part that holds a refused row; a part of one row becomes a dead letter, and only its position is left
    /// to move.
    async fn halve(
        &self,
        mut part: Vec<Item>,
        error: sqlx::Error,
        parts: &mut VecDeque<Vec<Item>>,
    ) -> Result<(), Error> {
        if part.len() > 1 {
            warn!(records = part.len(), %error, "PostgreSQL refuses a row of a batch; halving it.");
            let second = part.split_off(part.len() / 2);
            parts.push_front(second);
        } else if let Some(item) = part.first_mut() {
            match item.content {
                // Nothing but the position is left of it: it is the position that PostgreSQL refuses, and will again.
                Content::Skipped => return Err(Error::View(error)),
                // The dead letter is on the log; what the tenant would see of it is left out.
                Content::Dead(_) => {
                    warn!(%error, "PostgreSQL refuses the row of a rejected record; its tenant will not see it.");
                    item.content = Content::Skipped;
                }
                Content::Expired(_) => item.content = Content::Skipped,
                Content::Event(_) | Content::Acks(_) | Content::Attempt(_) => {
                    let reason = Unreadable { class: rejected::REFUSED_BY_DATABASE, message: error.to_string() };
                    if let Reading::First(producer) = &self.reading {
                        write::write(producer, &self.topics, &self.component, &item.record, &reason).await;
                    }
                    item.content = Content::Dead(reason);
                }
            }
        }
        parts.push_front(part);
        Ok(())
    }

    /// Asks until PostgreSQL answers.
    async fn until_answered<T, F>(&self, mut ask: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) if effect(&error) == SqlEffect::Fatal || effect(&error) == SqlEffect::Data => {
                    return Err(Error::View(error));
                }
                Err(error) => self.component.down(format!("PostgreSQL: {error}")),
            }
            backoff.pause().await;
        }
    }
}

/// One column of `rows`: the shape that `UNNEST` takes.
fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

fn place_of(item: &Item) -> Place {
    (item.record.topic.clone(), item.record.partition)
}

fn log_epoch_of(item: &Item, holds: &BTreeMap<Place, Hold>) -> i32 {
    holds.get(&place_of(item)).map_or(1, |hold| hold.log_epoch)
}

/// How far `part` moves each of its places.
fn moves_of(part: &[Item], holds: &BTreeMap<Place, Hold>) -> Vec<Advance> {
    let mut moves: BTreeMap<Place, Advance> = BTreeMap::new();
    for item in part {
        let place = place_of(item);
        let Some(hold) = holds.get(&place) else { continue };
        let step = moves.entry(place).or_insert_with_key(|(topic, partition)| Advance {
            topic: topic.clone(),
            partition: *partition,
            epoch: hold.epoch,
            expected: hold.committed,
            next: hold.committed,
            record_time_ms: None,
        });
        step.next = item.record.offset + 1;
        step.record_time_ms = step.record_time_ms.max(item.record.log_time_ms());
    }
    moves.into_values().collect()
}

fn note_written(part: &[Item], holds: &mut BTreeMap<Place, Hold>) {
    for item in part {
        if let Some(hold) = holds.get_mut(&place_of(item)) {
            hold.committed = item.record.offset + 1;
            hold.record_time_ms = Some(item.record.timestamp_ms);
        }
    }
}
