//! One batch into the tables: one transaction over all its partitions, and what is done when it does not go through.
//!
//! Each error names its effect: a conflict is tried again, an absent database is waited for, a row that PostgreSQL
//! refuses is found by halving and becomes a dead letter, a lost claim is left to its new owner, and anything else ends
//! the projector.

mod acks;
mod attempts;
mod events;
mod expired;
mod keys;
pub(crate) mod missed;
mod places;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use platform::fence::{self, Advance, Standing};
use platform::health::Component;
use platform::kafka::producer::Producer;
use platform::postgres::{SqlEffect, effect};
use schemas::ids::OrgId;
use schemas::native::Unreadable;
use schemas::topics::TopicNames;
use sqlx::postgres::{PgConnection, PgPool};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::batch::{Batch, Hold, Place};
use super::decode::{Content, Item, decode};
use super::generation::Generation;
use super::organizations::{self, Organizations};
use super::parts::{self, Parts};
use super::{CONSUMER, Error, dead_letters};
use crate::metrics::METRICS;
use crate::rejected::rows as rejected;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long an ack may be on the log before its event: far more than the clocks of two leaders differ.
const ACK_BEFORE_EVENT_MS: i64 = 86_400_000;

/// Whether records are read for the first time.
#[derive(Clone)]
pub(crate) enum Reading {
    /// They are: which of two is the original is decided, and what nobody can read becomes a dead letter.
    First(Producer),
    /// They were before (a rebuild, a replay): decisions are read and none is taken, and no dead letter is written
    /// again.
    Again,
}

/// Writes batches.
pub(crate) struct Flusher {
    pool: PgPool,
    /// Whose positions move with them.
    consumer: &'static str,
    generation: Generation,
    reading: Reading,
    parts: Parts,
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
    /// A part of the view was dropped meanwhile; nothing was written.
    NoRoom,
    /// PostgreSQL refuses some row; nothing was written.
    Refused(sqlx::Error),
}

/// Why one transaction did not go through.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    #[error("another writer took a dedup key meanwhile")]
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
        let parts = Parts::new(pool.clone(), generation, retention_days);
        Self { pool, consumer, generation, reading, parts, topics, organizations: Organizations::default(), component }
    }

    /// Writes the batch, whole, but for places that are lost. Waits for what passes by itself.
    pub(crate) async fn flush(&self, batch: Batch) -> Result<Outcome, Error> {
        let begun = Instant::now();
        METRICS.flush_records.observe(batch.records.len() as f64);
        let mut holds = batch.holds;
        let mut outcome = Outcome::default();
        let mut items: Vec<Item> = batch.records.into_iter().map(|record| decode(record, &self.topics)).collect();
        self.judge_organizations(&mut items).await?;
        if matches!(self.reading, Reading::Again) {
            self.pass_over_refused(&mut items, &holds).await?;
        }
        let dead = items.iter().filter_map(|item| match &item.content {
            Content::Dead(reason) => Some((&item.record, reason)),
            _ => None,
        });
        if let Reading::First(producer) = &self.reading {
            dead_letters::write_all(producer, &self.topics, &self.component, dead).await;
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
                    self.parts.forget();
                    parts.push_front(part);
                }
                Attempted::Refused(error) => self.halve(part, error, &mut parts).await?,
            }
        }
        outcome.written = holds.into_iter().collect();
        METRICS.flush_seconds.observe(begun.elapsed().as_secs_f64());
        Ok(outcome)
    }

    /// Turns events of organizations that do not exist into dead letters, and passes over all records of erased ones.
    async fn judge_organizations(&self, items: &mut [Item]) -> Result<(), Error> {
        let wanted: BTreeSet<OrgId> = items.iter().filter_map(org_of).collect();
        let standings = self.until_answered(|| self.organizations.standings(&self.pool, wanted.clone())).await?;
        for item in items {
            let Some(org) = org_of(item) else { continue };
            match standings.get(&org) {
                Some(organizations::Standing::Active) => {}
                Some(organizations::Standing::Erased) => {
                    METRICS.skipped.inc();
                    item.content = Content::Skipped;
                }
                // An ack or attempt of an unknown organization meets no event and waits its time out; a dead letter
                // would tell nobody anything.
                Some(organizations::Standing::Unknown) | None if !matches!(item.content, Content::Event(_)) => {}
                Some(organizations::Standing::Unknown) | None => {
                    let message = format!("there is no organization {org}");
                    item.content = Content::Dead(Unreadable { class: "unknown_organization", message });
                }
            }
        }
        Ok(())
    }

    /// Passes over events that were refused when they were read first, whatever they look like now: they come back by
    /// being redriven.
    async fn pass_over_refused(&self, items: &mut [Item], holds: &BTreeMap<Place, Hold>) -> Result<(), Error> {
        let events: Vec<usize> =
            (0..items.len()).filter(|index| matches!(items[*index].content, Content::Event(_))).collect();
        let place = |index: &usize| {
            let item = &items[*index];
            (item.record.partition, holds.get(&place_of(item)).map_or(1, |hold| hold.log_epoch), item.record.offset)
        };
        let places: Vec<(i32, i32, i64)> = events.iter().map(place).collect();
        let refused = self.until_answered(|| rejected::refused(&self.pool, &self.topics.events, &places)).await?;
        for (_, index) in events.into_iter().enumerate().filter(|(nth, _)| refused.contains(nth)) {
            items[index].content = Content::Skipped;
        }
        Ok(())
    }

    /// Makes room for what is kept by time, and passes over what is past its time.
    async fn make_room(&self, part: &mut [Item]) -> Result<(), Error> {
        let times: Vec<i64> =
            part.iter().filter(|item| is_kept_by_time(&item.content)).map(|item| item.record.timestamp_ms).collect();
        let floor_ms = self.until_answered(|| self.parts.make_room(times.iter().copied())).await?;
        // An ack is kept with its event, which was on the log before it, or soon after: such an old one would wait for
        // what is passed over.
        let least_ms = |content: &Content| match content {
            Content::Acks(_) => floor_ms.saturating_sub(ACK_BEFORE_EVENT_MS),
            content if is_kept_by_time(content) => floor_ms,
            _ => i64::MIN,
        };
        for item in part.iter_mut().filter(|item| item.record.timestamp_ms < least_ms(&item.content)) {
            METRICS.too_old.inc();
            item.content = match &item.content {
                Content::Event(event) => Content::Expired(event.org_id),
                _ => Content::Skipped,
            };
        }
        Ok(())
    }

    /// Tries to write `part` in one transaction until its fate is known.
    async fn write(&self, part: &[Item], holds: &BTreeMap<Place, Hold>) -> Result<Attempted, Error> {
        let moves = moves_of(part, holds);
        let mut pause = FIRST_PAUSE;
        loop {
            match self.transaction(part, holds, &moves).await {
                // Health is told when the batch is settled, by who knows of stopped partitions too.
                Ok(true) => return Ok(Attempted::Committed),
                Ok(false) => info!("A position was not where it was left; looking who moved it."),
                Err(Failure::Raced) => debug!("Another writer took a dedup key meanwhile; deciding again."),
                Err(Failure::Sql(error)) if parts::is_missing(&error) => return Ok(Attempted::NoRoom),
                Err(Failure::Sql(error)) => match effect(&error) {
                    SqlEffect::Data => return Ok(Attempted::Refused(error)),
                    SqlEffect::Fatal => return Err(Error::View(error)),
                    SqlEffect::Retry => debug!(%error, "A transaction met another one; trying again."),
                    SqlEffect::Unavailable => {
                        self.component.down(format!("PostgreSQL: {error}"));
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
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
            let lost: Vec<Place> = lost.map(|(step, _)| (std::sync::Arc::from(step.topic), step.partition)).collect();
            if !lost.is_empty() {
                return Ok(Attempted::Lost(lost));
            }
        }
    }

    /// `false`: a position did not match, and nothing was written.
    async fn transaction(
        &self,
        part: &[Item],
        holds: &BTreeMap<Place, Hold>,
        moves: &[Advance<'_>],
    ) -> Result<bool, Failure> {
        let mut transaction = self.pool.begin_with(self.generation.begin()).await?;
        // First, because it is the fence: from here on nobody else can claim these places before this transaction ends.
        let moved = fence::advance(&mut transaction, self.consumer, moves).await?;
        if moved.contains(&false) {
            transaction.rollback().await?;
            return Ok(false);
        }
        apply(&mut transaction, part, holds, &self.topics, &self.reading).await?;
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
                        dead_letters::write(producer, &self.topics, &self.component, &item.record, &reason).await;
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
        let mut pause = FIRST_PAUSE;
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) if effect(&error) == SqlEffect::Fatal || effect(&error) == SqlEffect::Data => {
                    return Err(Error::View(error));
                }
                Err(error) => self.component.down(format!("PostgreSQL: {error}")),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Events before acks and attempts: an effect in the same batch finds its event.
async fn apply(
    connection: &mut PgConnection,
    part: &[Item],
    holds: &BTreeMap<Place, Hold>,
    topics: &TopicNames,
    reading: &Reading,
) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut acknowledged = Vec::new();
    let mut attempted = Vec::new();
    let mut refused = Vec::new();
    let mut expired = expired::Newest::default();
    for item in part {
        let log_epoch = holds.get(&place_of(item)).map_or(1, |hold| hold.log_epoch);
        match &item.content {
            Content::Event(event) => rows.push(events::Row::new(&item.record, event, log_epoch)),
            Content::Acks(acks) => {
                acknowledged.extend(acks.iter().zip(0_i32..).map(|(ack, nth)| acks::Row::new(&item.record, ack, nth)))
            }
            Content::Attempt(attempt) => attempted.push(attempts::Row { record: &item.record, attempt }),
            Content::Dead(reason) => refused.extend(rejected::Row::of(&item.record, reason, log_epoch, topics)),
            Content::Expired(org) => expired.note(*org, log_epoch, &item.record),
            Content::Skipped => {}
        }
    }
    if !rows.is_empty() {
        let duplicates = keys::settle(connection, &rows, reading).await?;
        if events::insert(connection, &rows, &duplicates, reading).await? {
            let (orgs, ids): (Vec<Uuid>, Vec<Uuid>) =
                rows.iter().map(|row| (row.event.org_id.as_uuid(), row.event.event_id.as_uuid())).unzip();
            acks::apply_waiting(connection, &orgs, &ids).await?;
        }
    }
    if !acknowledged.is_empty() {
        acks::apply(connection, &acknowledged).await?;
    }
    if !attempted.is_empty() {
        attempts::apply(connection, &attempted).await?;
    }
    if matches!(reading, Reading::First(_)) {
        rejected::insert(connection, &refused).await?;
        expired::note(connection, &expired).await?;
    }
    Ok(())
}

/// Events and attempts lie in the part of their append time; an ack changes a row that is there.
const fn is_kept_by_time(content: &Content) -> bool {
    matches!(content, Content::Event(_) | Content::Attempt(_))
}

fn place_of(item: &Item) -> Place {
    (item.record.topic.clone(), item.record.partition)
}

fn org_of(item: &Item) -> Option<OrgId> {
    match &item.content {
        Content::Event(event) => Some(event.org_id),
        // All of one record have the organization that is its key.
        Content::Acks(acks) => acks.first().map(|ack| ack.org_id),
        Content::Attempt(attempt) => Some(attempt.org_id),
        Content::Expired(org) => Some(*org),
        // Of an erased organization even what nobody can read is passed over.
        Content::Dead(_) => std::str::from_utf8(item.record.key.as_deref()?).ok()?.parse().ok(),
        Content::Skipped => None,
    }
}

/// How far `part` moves each of its places.
fn moves_of<'a>(part: &'a [Item], holds: &BTreeMap<Place, Hold>) -> Vec<Advance<'a>> {
    let mut moves: BTreeMap<(&'a str, i32), Advance<'a>> = BTreeMap::new();
    for item in part {
        let Some(hold) = holds.get(&place_of(item)) else { continue };
        let (topic, partition): (&'a str, i32) = (&item.record.topic, item.record.partition);
        let step = moves.entry((topic, partition)).or_insert(Advance {
            topic,
            partition,
            epoch: hold.epoch,
            expected: hold.committed,
            next: hold.committed,
            record_time_ms: None,
        });
        step.next = item.record.offset + 1;
        step.record_time_ms = item.record.log_time_ms().or(step.record_time_ms);
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
