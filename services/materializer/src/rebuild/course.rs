//! Reading the log from where a reading stands up to given positions, and writing what is read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use platform::fence::{self, skip};
use platform::health::Component;
use platform::kafka::KafkaConfig;
use platform::kafka::log_reader::{self, OnTruncation, Span};
use sqlx::postgres::PgPool;

use super::RebuildError;
use crate::projector::CONSUMER;
use crate::projector::batch::{Collector, Place};
use crate::projector::flush::Flusher;
use crate::projector::generation::Generation;

const MAX_FLUSH_RECORDS: usize = 1000;
const MAX_FLUSH_BYTES: usize = 8 * 1024 * 1024;

/// How far a reading of the log has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Records passed in this stretch.
    pub done: u64,
    /// Records of this stretch in all.
    pub total: u64,
    /// Records per second, over the stretch.
    pub per_second: f64,
}

/// Positions: where each place is to be read to, the first offset that is not.
pub(super) type Goals = BTreeMap<Place, i64>;

/// One reading, under positions of its own.
pub(super) struct Course {
    pool: PgPool,
    kafka: KafkaConfig,
    consumer: &'static str,
    flusher: Flusher,
    collector: Collector,
}

impl Course {
    pub(super) fn new(
        pool: PgPool,
        kafka: KafkaConfig,
        (consumer, generation): (&'static str, Generation),
        retention_days: u32,
        component: Component,
    ) -> Self {
        let flusher =
            Flusher::again(pool.clone(), (consumer, generation), kafka.topics.clone(), component, retention_days);
        Self { pool, kafka, consumer, flusher, collector: Collector::default() }
    }

    /// Records between where this reading stands and `goals`, at most.
    pub(super) async fn left(&mut self, goals: &Goals) -> Result<i64, RebuildError> {
        self.claim(goals).await?;
        Ok(self.spans(goals).iter().map(|span| span.to - span.from).sum())
    }

    /// Reads and writes up to `goals`; answers how many places of the log were passed.
    pub(super) async fn run_to(
        &mut self,
        goals: &Goals,
        progress: &(impl Fn(Progress) + Sync),
    ) -> Result<u64, RebuildError> {
        self.claim(goals).await?;
        let spans = self.spans(goals);
        let total: u64 = spans.iter().map(|span| u64::try_from(span.to - span.from).unwrap_or(0)).sum();
        let begun = Instant::now();
        // What the view gave up is not shown by a reader that can read it.
        let skips = skip::skipped(&self.pool, CONSUMER).await?;
        let mut inflow = log_reader::read(&self.kafka, spans, &skips, OnTruncation::Fail)?;
        let deliveries = self.kafka.topics.deliveries.clone();
        while let Some(chunk) = inflow.recv().await {
            self.collector.collect(chunk?, |topic| topic == deliveries);
            // Until there is room: what is read ahead stays bounded, however large the records are.
            while !self.collector.has_room(MAX_FLUSH_RECORDS, MAX_FLUSH_BYTES) {
                self.flush_one().await?;
                let left: i64 = self.spans(goals).iter().map(|span| span.to - span.from).sum();
                let done = total.saturating_sub(u64::try_from(left).unwrap_or(0));
                progress(Progress { done, total, per_second: done as f64 / begun.elapsed().as_secs_f64().max(0.001) });
            }
        }
        while self.flush_one().await? {}
        if let Some(span) = self.spans(goals).first() {
            return Err(RebuildError::Unsuitable(format!(
                "{}[{}] could not be read up to {}",
                span.topic, span.partition, span.to
            )));
        }
        Ok(total)
    }

    /// `false`: there was nothing to write.
    async fn flush_one(&mut self) -> Result<bool, RebuildError> {
        let Some(batch) = self.collector.take_batch(MAX_FLUSH_RECORDS, MAX_FLUSH_BYTES) else { return Ok(false) };
        let outcome = self.flusher.flush(batch).await?;
        if !outcome.lost.is_empty() {
            return Err(RebuildError::Busy("it has taken this one's positions".to_owned()));
        }
        for (place, hold) in &outcome.written {
            self.collector.committed(place, hold);
        }
        Ok(true)
    }

    /// Claims the places of `goals` that are not claimed yet.
    async fn claim(&mut self, goals: &Goals) -> Result<(), RebuildError> {
        let mut by_topic: BTreeMap<Arc<str>, Vec<(i32, i64)>> = BTreeMap::new();
        for (topic, partition) in goals.keys() {
            if !self.collector.holds().any(|(place, _)| place.0 == *topic && place.1 == *partition) {
                // Where nothing was noted down the log begins at 0, or it would have been.
                by_topic.entry(topic.clone()).or_default().push((*partition, 0));
            }
        }
        for (topic, partitions) in by_topic {
            let claims = fence::claim(&self.pool, self.consumer, &topic, &partitions).await?;
            self.collector.assign(claims);
        }
        Ok(())
    }

    fn spans(&self, goals: &Goals) -> Vec<Span> {
        let span = |(place, hold): (&Place, &crate::projector::batch::Hold)| {
            let to = *goals.get(place)?;
            (hold.committed < to).then(|| Span { topic: place.0.clone(), partition: place.1, from: hold.committed, to })
        };
        self.collector.holds().filter_map(span).collect()
    }
}
