//! Reads the log from the positions of a rebuild or replay up to target offsets, and writes the records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use kafka::KafkaConfig;
use kafka::fence::{self, skip};
use kafka::log_reader::{self, OffsetRange, OnTruncation};
use kafka::partition::TopicPartition;
use runtime::health::Component;
use sqlx::postgres::PgPool;

use super::error::RebuildError;
use super::positions::TargetOffsets;
use crate::projector::CONSUMER;
use crate::projector::batch::{Collector, OwnedPartition};
use crate::projector::flush::Flusher;
use crate::projector::generation::Generation;

const MAX_FLUSH_RECORDS: usize = 1000;
const MAX_FLUSH_BYTES: usize = 8 * 1024 * 1024;

/// Progress of one run up to target offsets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplayProgress {
    /// Number of offsets read.
    pub done: u64,
    /// Number of offsets to read in all.
    pub total: u64,
    /// Offsets per second since the start of the run.
    pub per_second: f64,
}

/// Reads under the positions of `consumer`.
pub(super) struct LogReplayer {
    pool: PgPool,
    kafka: KafkaConfig,
    consumer: &'static str,
    flusher: Flusher,
    collector: Collector,
}

impl LogReplayer {
    pub(super) fn new(
        pool: PgPool,
        kafka: KafkaConfig,
        (consumer, generation): (&'static str, Generation),
        retention_days: u32,
        component: Component,
    ) -> Self {
        let flusher =
            Flusher::for_replay(pool.clone(), (consumer, generation), kafka.topics.clone(), component, retention_days);
        Self { pool, kafka, consumer, flusher, collector: Collector::default() }
    }

    /// Number of offsets between the positions and `targets`; the number of records is at most that.
    pub(super) async fn remaining(&mut self, targets: &TargetOffsets) -> Result<i64, RebuildError> {
        self.claim(targets).await?;
        Ok(self.ranges(targets).iter().map(|range| range.to - range.from).sum())
    }

    /// Reads and writes up to `targets`; returns the number of offsets read.
    pub(super) async fn run_to(
        &mut self,
        targets: &TargetOffsets,
        progress: &(impl Fn(ReplayProgress) + Sync),
    ) -> Result<u64, RebuildError> {
        self.claim(targets).await?;
        let ranges = self.ranges(targets);
        let total: u64 = ranges.iter().map(|range| u64::try_from(range.to - range.from).unwrap_or(0)).sum();
        let started = Instant::now();
        // Ranges that the live view skipped are skipped here too, even if they can be read by now.
        let skips = skip::skipped_ranges(&self.pool, CONSUMER).await?;
        let mut reader = log_reader::read(&self.kafka, ranges, &skips, OnTruncation::Fail)?;
        let deliveries = self.kafka.topics.deliveries.clone();
        while let Some(records) = reader.recv().await {
            self.collector.collect(records?, |topic| topic == deliveries);
            // Flush until there is room, so that collected records stay bounded, however large they are.
            while !self.collector.has_room(MAX_FLUSH_RECORDS, MAX_FLUSH_BYTES) {
                self.flush_one().await?;
                let remaining: i64 = self.ranges(targets).iter().map(|range| range.to - range.from).sum();
                let done = total.saturating_sub(u64::try_from(remaining).unwrap_or(0));
                let seconds = started.elapsed().as_secs_f64().max(0.001);
                progress(ReplayProgress { done, total, per_second: done as f64 / seconds });
            }
        }
        while self.flush_one().await? {}
        if let Some(range) = self.ranges(targets).first() {
            return Err(RebuildError::Unsuitable(format!(
                "{}[{}] could not be read up to offset {}; try again",
                range.topic, range.partition, range.to
            )));
        }
        Ok(total)
    }

    /// `false`: nothing was collected.
    async fn flush_one(&mut self) -> Result<bool, RebuildError> {
        let Some(batch) = self.collector.take_batch(MAX_FLUSH_RECORDS, MAX_FLUSH_BYTES) else { return Ok(false) };
        let outcome = self.flusher.flush(batch).await?;
        if !outcome.fenced.is_empty() {
            return Err(RebuildError::Busy("it has claimed the positions of this one".to_owned()));
        }
        for (key, written) in &outcome.written {
            self.collector.mark_committed(key, written);
        }
        Ok(true)
    }

    /// Claims the partitions of `targets` that are not owned yet.
    async fn claim(&mut self, targets: &TargetOffsets) -> Result<(), RebuildError> {
        let mut by_topic: BTreeMap<Arc<str>, Vec<(i32, i64)>> = BTreeMap::new();
        for (topic, partition) in targets.keys() {
            if !self.collector.owned().any(|(key, _)| key.0 == *topic && key.1 == *partition) {
                // A partition without a stored position is new, so it is read from offset 0.
                by_topic.entry(topic.clone()).or_default().push((*partition, 0));
            }
        }
        for (topic, partitions) in by_topic {
            let claims = fence::claim(&self.pool, self.consumer, &topic, None, &partitions).await?;
            self.collector.assign(claims);
        }
        Ok(())
    }

    fn ranges(&self, targets: &TargetOffsets) -> Vec<OffsetRange> {
        let range = |(key, owned): (&TopicPartition, &OwnedPartition)| {
            let (from, to) = (owned.committed, *targets.get(key)?);
            (from < to).then(|| OffsetRange { topic: key.0.clone(), partition: key.1, from, to })
        };
        self.collector.owned().filter_map(range).collect()
    }
}
