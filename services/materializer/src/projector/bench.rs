//! From records to the rows of a batch, for `loadtests/micro`. Without the transaction, and without the arrays that
//! carry the columns of rows to PostgreSQL.

use std::sync::Arc;

use kafka::Record;
use kafka::fence::Claim;
use schemas::native::SystemKey;
use schemas::topics::TopicNames;

use super::batch::Collector;
use super::decode::{Content, decode};
use super::event_row::EventRow;

const NOW_MS: i64 = 1_795_000_000_123;

/// Builds batches of partition 0 of the events topic.
pub struct Batches {
    topics: TopicNames,
    topic: Arc<str>,
    system_key: SystemKey,
}

impl Batches {
    /// With the topic names of production.
    pub fn new() -> Self {
        let topics = TopicNames::with_prefix("");
        Self { topic: Arc::from(topics.events.as_str()), topics, system_key: SystemKey::from_bytes([7; 32]) }
    }

    /// The record of an encoded event of the organization with this id.
    pub fn record(&self, offset: i64, org_id: &str, value: Vec<u8>) -> Record {
        Record {
            topic: self.topic.clone(),
            partition: 0,
            offset,
            timestamp_ms: NOW_MS,
            has_producers_time: false,
            key: Some(org_id.as_bytes().to_vec()),
            value: Some(value),
            headers: Vec::new(),
            is_marker: false,
        }
    }

    /// Collects records of offsets from 0 on, takes them as one batch, decodes it and sorts its rows as the insert
    /// does. Returns the number of rows.
    pub fn rows(&self, records: Vec<Record>) -> usize {
        let mut collector = Collector::default();
        let claim = Claim { topic: self.topic.clone(), partition: 0, epoch: 1, log_epoch: 1, next_offset: 0 };
        collector.assign(vec![claim]);
        collector.collect(records, |topic| topic == self.topics.deliveries);
        let Some(batch) = collector.take_batch(usize::MAX, usize::MAX) else { return 0 };
        let decode = |record| decode(record, &self.topics, &self.system_key, NOW_MS);
        let decoded: Vec<_> = batch.records.into_iter().map(decode).collect();
        let mut rows: Vec<EventRow<'_>> = Vec::with_capacity(decoded.len());
        for item in &decoded {
            if let Content::Event(event) = &item.content {
                rows.push(EventRow::new(&item.record, event, 1));
            }
        }
        rows.sort_by_key(EventRow::id);
        std::hint::black_box(rows).len()
    }
}

impl Default for Batches {
    fn default() -> Self {
        Self::new()
    }
}
