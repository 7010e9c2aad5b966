//! Writes one batch into the tables, in one transaction over all its partitions, and handles a transaction that fails.
//!
//! Each error has its effect. After a conflict the transaction is retried. While PostgreSQL is unavailable the flush
//! waits. A row that PostgreSQL rejects is found by bisecting and becomes a dead letter. A fenced partition is left to
//! its new owner. Any other error stops the projector.

mod acks;
mod apply;
mod attempts;
mod event_ids;
mod events;
mod expired;
mod filter;
mod outcome;
pub(crate) mod pending_effects;
mod positions;
mod read_mode;
mod split;
mod system_key;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kafka::fence::{self, Advance, CommitOutcome};
use kafka::partition::TopicPartition;
use kafka::producer::Producer;
use runtime::health::Component;
use runtime::postgres::{SqlEffect, effect, is_statement_timeout};
use runtime::retry::Backoff;
use schemas::native::{SystemKey, Unreadable};
use schemas::position::LogPosition;
use schemas::topics::TopicNames;
use schemas::unix_time::to_millis;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use tokio::sync::OnceCell;
use tracing::{debug, info, warn};

use super::batch::Batch;
use super::config::CONSUMER;
use super::decode::{Content, DecodedRecord, decode};
use super::error::ProjectorError;
use super::generation::Generation;
use super::organizations::OrganizationStatuses;
use super::time_partitions::{self, TimePartitions};
use crate::dead_letters::write;
use crate::metrics::METRICS;
use crate::rejected::rows as rejected;
use event_ids::Lookup;
use outcome::{ChunkOutcome, TransactionError};
use positions::{OwnedPartitions, advances_of, mark_written};
use read_mode::ReadMode;

pub(crate) use outcome::FlushOutcome;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub(crate) struct Flusher {
    pool: PgPool,
    /// Name in `consumer_positions`: the flush moves the positions of this consumer.
    consumer: &'static str,
    generation: Generation,
    mode: ReadMode,
    time_partitions: TimePartitions,
    topics: TopicNames,
    /// Of the system's own events; read at the first flush.
    system_key: OnceCell<SystemKey>,
    organizations: OrganizationStatuses,
    component: Component,
}

impl Flusher {
    /// Writes the live generation, from records that are read for the first time.
    pub(crate) fn live(
        pool: PgPool,
        producer: Producer,
        topics: TopicNames,
        component: Component,
        retention_days: u32,
    ) -> Self {
        Self::new(pool, (CONSUMER, Generation::Live), ReadMode::Live(producer), topics, component, retention_days)
    }

    /// Writes into `generation` from records that the live view has read before, and moves the positions of `consumer`.
    pub(crate) fn for_replay(
        pool: PgPool,
        (consumer, generation): (&'static str, Generation),
        topics: TopicNames,
        component: Component,
        retention_days: u32,
    ) -> Self {
        Self::new(pool, (consumer, generation), ReadMode::Replayed, topics, component, retention_days)
    }

    fn new(
        pool: PgPool,
        (consumer, generation): (&'static str, Generation),
        mode: ReadMode,
        topics: TopicNames,
        component: Component,
        retention_days: u32,
    ) -> Self {
        let time_partitions = TimePartitions::new(pool.clone(), generation, retention_days);
        let organizations = OrganizationStatuses::default();
        let system_key = OnceCell::new();
        Self { pool, consumer, generation, mode, time_partitions, topics, system_key, organizations, component }
    }

    /// Writes the batch, without the records of fenced partitions. Waits while PostgreSQL or Kafka is unavailable.
    pub(crate) async fn flush(&self, batch: Batch) -> Result<FlushOutcome, ProjectorError> {
        let started = Instant::now();
        METRICS.flush_records.observe(batch.records.len() as f64);
        let mut owned = batch.owned;
        let mut outcome = FlushOutcome::default();
        let read_key = || self.retry_until_available(|| system_key::read(&self.pool));
        let system_key = self.system_key.get_or_try_init(read_key).await?;
        let (records, now_ms) = (batch.records.into_iter(), to_millis(OffsetDateTime::now_utc()));
        let decoded = records.map(|record| decode(record, &self.topics, system_key, now_ms));
        let mut items: Vec<DecodedRecord> = decoded.collect();
        self.check_organizations(&mut items).await?;
        match &self.mode {
            ReadMode::Live(producer) => self.write_dead_letters(producer, &items).await,
            ReadMode::Replayed => self.skip_rejected(&mut items, &owned).await?,
        }
        let mut chunks = split::by_rows(items, split::MAX_ROWS);
        while let Some(mut chunk) = chunks.pop_front() {
            chunk.retain(|item| owned.contains_key(&item.topic_partition()));
            if chunk.is_empty() {
                continue;
            }
            self.ensure_time_partitions(&mut chunk).await?;
            match self.write(&chunk, &owned).await? {
                ChunkOutcome::Committed => mark_written(&chunk, &mut owned),
                ChunkOutcome::Fenced(partitions) => {
                    for key in partitions {
                        METRICS.fenced.inc();
                        outcome.fenced.extend(owned.remove(&key).map(|partition| (key, partition.epoch)));
                    }
                    chunks.push_front(chunk);
                }
                ChunkOutcome::MissingTimePartition => {
                    self.time_partitions.invalidate();
                    chunks.push_front(chunk);
                }
                ChunkOutcome::TimedOut(error) => {
                    warn!(records = chunk.len(), %error, "Transaction took too long; writing half of it at a time.");
                    split::halve(chunk, &mut chunks);
                }
                ChunkOutcome::Rejected(error) => self.bisect(chunk, error, &mut chunks).await?,
            }
        }
        outcome.written = owned.into_iter().collect();
        METRICS.flush_seconds.observe(started.elapsed().as_secs_f64());
        Ok(outcome)
    }

    /// Turns events of unknown organizations into dead letters, and skips all records of erased organizations.
    async fn check_organizations(&self, items: &mut [DecodedRecord]) -> Result<(), ProjectorError> {
        let wanted = filter::organizations_of(items);
        let statuses = self.retry_until_available(|| self.organizations.statuses(&self.pool, wanted.clone())).await?;
        filter::apply_statuses(items, &statuses);
        Ok(())
    }

    /// Skips events that were rejected at their first reading, even if they could be accepted now: only a redrive
    /// brings them back.
    async fn skip_rejected(&self, items: &mut [DecodedRecord], owned: &OwnedPartitions) -> Result<(), ProjectorError> {
        let events = filter::events_by_position(items, owned);
        let positions: Vec<LogPosition> = events.iter().map(|(position, _)| *position).collect();
        let read = || rejected::find_rejected(&self.pool, &self.topics.events, &positions);
        let rejected = self.retry_until_available(read).await?;
        for (_, item) in events.into_iter().filter(|(position, _)| rejected.contains(position)) {
            item.content = Content::Skipped;
        }
        Ok(())
    }

    async fn write_dead_letters(&self, producer: &Producer, items: &[DecodedRecord]) {
        let dead = items.iter().filter_map(|item| match &item.content {
            Content::Dead(reason) => Some((&item.record, reason)),
            _ => None,
        });
        write::write_all(producer, &self.topics, &self.component, dead).await;
    }

    /// Creates missing time partitions for the records of the chunk, and skips records below the retention floor.
    async fn ensure_time_partitions(&self, chunk: &mut [DecodedRecord]) -> Result<(), ProjectorError> {
        let times = filter::partitioned_times(chunk);
        let floor_ms = self.retry_until_available(|| self.time_partitions.ensure(times.iter().copied())).await?;
        filter::skip_expired(chunk, floor_ms);
        Ok(())
    }

    /// Writes `chunk` in one transaction, and retries until it is committed, rejected, fenced or timed out. A chunk of
    /// one record that times out is retried: it cannot get smaller.
    async fn write(&self, chunk: &[DecodedRecord], owned: &OwnedPartitions) -> Result<ChunkOutcome, ProjectorError> {
        let advances = advances_of(chunk, owned);
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut lookup = Lookup::Expected;
        loop {
            let mut timed_out = None;
            match self.transaction(chunk, owned, &advances, lookup).await {
                // The session reports health after the flush, because it also knows of stopped partitions.
                Ok(true) => return Ok(ChunkOutcome::Committed),
                Ok(false) => info!("Position was moved by another instance; reading who owns the partition."),
                Err(TransactionError::Conflict) => {
                    debug!(
                        "Another writer took a dedup key or an event id; retrying the transaction with new decisions."
                    );
                    lookup = Lookup::All;
                }
                Err(TransactionError::Sql(error)) if time_partitions::is_missing(&error) => {
                    return Ok(ChunkOutcome::MissingTimePartition);
                }
                Err(TransactionError::Sql(error)) if chunk.len() > 1 && is_statement_timeout(&error) => {
                    timed_out = Some(error);
                }
                Err(TransactionError::Sql(error)) => match effect(&error) {
                    SqlEffect::Data => return Ok(ChunkOutcome::Rejected(error)),
                    SqlEffect::Fatal => return Err(ProjectorError::View(error)),
                    SqlEffect::Retry => debug!(%error, "Transaction conflict; retrying."),
                    SqlEffect::Unavailable => {
                        self.component.report_unhealthy(format!("PostgreSQL: {error}"));
                        backoff.pause().await;
                    }
                },
            }
            // The transaction may have been committed although it failed: the stored positions show whether it was.
            let outcomes =
                self.retry_until_available(|| fence::commit_outcomes(&self.pool, self.consumer, &advances)).await?;
            if outcomes.contains(&CommitOutcome::Committed) {
                // One transaction: if one position was moved, all rows were written.
                return Ok(ChunkOutcome::Committed);
            }
            let fenced = advances.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == CommitOutcome::Fenced);
            let fenced: Vec<TopicPartition> =
                fenced.map(|(advance, _)| (advance.topic.clone(), advance.partition)).collect();
            if !fenced.is_empty() {
                return Ok(ChunkOutcome::Fenced(fenced));
            }
            if let Some(error) = timed_out {
                return Ok(ChunkOutcome::TimedOut(error));
            }
        }
    }

    /// Writes `chunk` with its positions. `false`: a position did not match, and nothing was written.
    ///
    /// A chunk of events that ingest made without dedup keys takes two statements between BEGIN and COMMIT: (1) advance
    /// the positions, (4) insert the events. Events with dedup keys, or with ids that other records may name, add two:
    /// (2) read decisions and lock the owners of keys, (3) store new ones. If effects of these events are pending, (5)
    /// takes and applies them, and (6) computes the delivery statuses of those that were attempted. So a chunk of
    /// events takes at most six. Acks add one statement, attempts five (two more if some were reported
    /// before), rejected and expired records one each.
    async fn transaction(
        &self,
        chunk: &[DecodedRecord],
        owned: &OwnedPartitions,
        advances: &[Advance],
        lookup: Lookup,
    ) -> Result<bool, TransactionError> {
        let mut transaction = runtime::postgres::begin_with(&self.pool, self.generation.begin()).await?;
        // First, because it is the fence: until this transaction ends no other instance can claim these partitions.
        let moved = fence::advance(&mut transaction, self.consumer, advances).await?;
        if moved.contains(&false) {
            transaction.rollback().await?;
            return Ok(false);
        }
        apply::apply(&mut transaction, (&self.mode, &self.topics), chunk, owned, lookup).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Splits a chunk that has a rejected row. If the chunk is that one row, it becomes a dead letter, and only its
    /// position is left to write.
    async fn bisect(
        &self,
        mut chunk: Vec<DecodedRecord>,
        error: sqlx::Error,
        chunks: &mut VecDeque<Vec<DecodedRecord>>,
    ) -> Result<(), ProjectorError> {
        if chunk.len() > 1 {
            warn!(records = chunk.len(), %error, "PostgreSQL rejected a row of a batch; bisecting the batch.");
        } else if let Some(item) = chunk.first_mut() {
            match item.content {
                // Only the position is written: PostgreSQL rejects the position, and will do so again.
                Content::Skipped => return Err(ProjectorError::View(error)),
                // The dead letter is in Kafka; only the tenant's view of it is missing.
                Content::Dead(_) => {
                    warn!(%error, "PostgreSQL rejected the row of a dead letter; hiding it from the tenant.");
                    item.content = Content::Skipped;
                }
                Content::Expired(_) => item.content = Content::Skipped,
                Content::Event(_) | Content::Acks(_) | Content::Attempt(_) => {
                    let reason = Unreadable { class: rejected::REFUSED_BY_DATABASE, message: error.to_string() };
                    if let ReadMode::Live(producer) = &self.mode {
                        write::write(producer, &self.topics, &self.component, &item.record, &reason).await;
                    }
                    item.content = Content::Dead(reason);
                }
            }
        }
        split::halve(chunk, chunks);
        Ok(())
    }

    /// Retries `query` until PostgreSQL is available.
    async fn retry_until_available<T, F>(&self, mut query: impl FnMut() -> F) -> Result<T, ProjectorError>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match query().await {
                Ok(value) => return Ok(value),
                Err(error) if effect(&error) == SqlEffect::Fatal || effect(&error) == SqlEffect::Data => {
                    return Err(ProjectorError::View(error));
                }
                Err(error) => self.component.report_unhealthy(format!("PostgreSQL: {error}")),
            }
            backoff.pause().await;
        }
    }
}
