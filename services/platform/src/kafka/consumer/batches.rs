//! Batches that cannot be unpacked, from the watch that found them to the thread that reads their places: only there it
//! is sure that the place is still held, and still stands before the batch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tracing::error;

use super::held::{Place, reached};
use crate::kafka::Record;
use crate::kafka::unpackable::Batch;

/// Cloning shares them.
#[derive(Clone, Default)]
pub(super) struct Batches(Arc<Mutex<BTreeMap<Place, (i64, Batch)>>>);

impl Batches {
    /// The batch at `offset` of `place` is to be passed.
    pub(super) fn found(&self, place: Place, offset: i64, batch: Batch) {
        self.lock().insert(place, (offset, batch));
    }

    /// What stands for those that lie where `client` stands.
    pub(super) fn take<C: ConsumerContext>(&self, client: &BaseConsumer<C>) -> Vec<Record> {
        if self.lock().is_empty() {
            return Vec::new();
        }
        let mut taken = Vec::new();
        for (place, next) in reached(client) {
            if let Some((_, batch)) = self.lock().remove(&place).filter(|(offset, _)| *offset == next) {
                taken.push(Record::unpackable(place.0, place.1, batch));
            }
        }
        taken
    }

    /// Found while these partitions were held: whoever holds them again may read another log of that name.
    pub(super) fn forget(&self, partitions: &[i32]) {
        self.lock().retain(|(_, partition), _| !partitions.contains(partition));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, (i64, Batch)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has `client` go on behind them. Assigned anew rather than sought: a place that was sought, and of which nothing
/// comes, tells where it stood before. Without any it does nothing: librdkafka takes even an empty assignment for the
/// answer to a rebalance that is under way.
pub(super) fn go_on_behind<C: ConsumerContext>(client: &BaseConsumer<C>, passed: &[Record]) -> Result<(), KafkaError> {
    if passed.is_empty() {
        return Ok(());
    }
    let (mut gone, mut behind) = (TopicPartitionList::new(), TopicPartitionList::new());
    for record in passed {
        let reason = record.unpackable.as_deref().unwrap_or_default();
        error!(topic = %record.topic, partition = record.partition, last_offset = record.offset, reason, "A batch cannot be unpacked; it is passed.");
        gone.add_partition(&record.topic, record.partition);
        behind.add_partition_offset(&record.topic, record.partition, Offset::Offset(record.offset + 1))?;
    }
    client.incremental_unassign(&gone)?;
    client.incremental_assign(&behind)
}
