//! Collects the records of owned partitions until the next transaction writes them. Pure.
//!
//! Keeps one rule: a record is taken only from an owned partition, in offset order, once.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka::Record;
use kafka::fence::Claim;
use kafka::partition::TopicPartition;

/// A partition that this instance has claimed, and how far it was read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnedPartition {
    pub(crate) epoch: i64,
    pub(crate) log_epoch: i32,
    /// Position in PostgreSQL, as this instance last wrote or read it.
    pub(crate) committed: i64,
    /// Append time of the last record before `committed`, milliseconds since the Unix epoch.
    pub(crate) record_time_ms: Option<i64>,
    /// Append time of the oldest collected record that is not written, same unit; it may be earlier than that.
    pub(crate) waiting_since_ms: Option<i64>,
    /// The next offset to collect.
    next_to_collect: i64,
}

/// The records of one transaction.
#[derive(Debug)]
pub(crate) struct Batch {
    /// In the order in which they were read; in offset order within each partition.
    pub(crate) records: Vec<Record>,
    /// The partitions of these records, as they were when the batch was taken.
    pub(crate) owned: BTreeMap<TopicPartition, OwnedPartition>,
}

/// Collects records while a transaction runs.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    owned: BTreeMap<TopicPartition, OwnedPartition>,
    events_and_acks: RecordQueue,
    /// Written only when no event or ack waits.
    deliveries: RecordQueue,
}

#[derive(Debug, Default)]
struct RecordQueue {
    records: Vec<Record>,
    bytes: usize,
}

impl RecordQueue {
    fn push(&mut self, record: Record) {
        self.bytes += record.size();
        self.records.push(record);
    }

    fn discard(&mut self, is_discarded: impl Fn(&Record) -> bool) {
        self.records.retain(|record| !is_discarded(record));
        self.bytes = self.records.iter().map(Record::size).sum();
    }

    /// Takes at least one record, however large.
    fn take(&mut self, max_records: usize, max_bytes: usize) -> Vec<Record> {
        let mut bytes = 0;
        let fits = |record: &&Record| {
            bytes += record.size();
            bytes <= max_bytes
        };
        let count = self.records.iter().take(max_records).take_while(fits).count().max(1);
        let taken: Vec<Record> = self.records.drain(..count.min(self.records.len())).collect();
        self.bytes -= taken.iter().map(Record::size).sum::<usize>();
        taken
    }
}

impl Collector {
    /// Collects records of these partitions from now on.
    pub(crate) fn assign(&mut self, claims: Vec<Claim>) {
        for claim in claims {
            let partition = OwnedPartition {
                epoch: claim.epoch,
                log_epoch: claim.log_epoch,
                committed: claim.next_offset,
                record_time_ms: None,
                waiting_since_ms: None,
                next_to_collect: claim.next_offset,
            };
            self.release(&claim.topic, claim.partition);
            self.owned.insert((claim.topic, claim.partition), partition);
        }
    }

    /// Releases these partitions of every topic and discards their collected records.
    pub(crate) fn revoke(&mut self, partitions: &[i32]) {
        self.owned.retain(|(_, partition), _| !partitions.contains(partition));
        self.events_and_acks.discard(|record| partitions.contains(&record.partition));
        self.deliveries.discard(|record| partitions.contains(&record.partition));
    }

    /// Releases one partition of one topic and discards its collected records.
    fn release(&mut self, topic: &Arc<str>, partition: i32) {
        if self.owned.remove(&(topic.clone(), partition)).is_some() {
            let is_released = |record: &Record| record.partition == partition && record.topic == *topic;
            self.events_and_acks.discard(is_released);
            self.deliveries.discard(is_released);
        }
    }

    /// Collects the new records of owned partitions. Skips records of other partitions and records that were read
    /// before.
    pub(crate) fn collect(&mut self, records: Vec<Record>, is_delivery: impl Fn(&str) -> bool) {
        for record in records {
            let Some(partition) = self.owned.get_mut(&(record.topic.clone(), record.partition)) else { continue };
            if record.offset < partition.next_to_collect {
                continue;
            }
            partition.next_to_collect = record.offset + 1;
            partition.waiting_since_ms.get_or_insert(record.timestamp_ms);
            if is_delivery(&record.topic) { self.deliveries.push(record) } else { self.events_and_acks.push(record) }
        }
    }

    /// Whether the consumer may read more. Both queues are bounded, because one channel feeds both.
    pub(crate) fn has_room(&self, max_records: usize, max_bytes: usize) -> bool {
        [&self.events_and_acks, &self.deliveries]
            .iter()
            .all(|queue| queue.records.len() < max_records && queue.bytes < max_bytes)
    }

    /// The next records to write: events and acks, else deliveries; `None` when nothing is collected.
    pub(crate) fn take_batch(&mut self, max_records: usize, max_bytes: usize) -> Option<Batch> {
        let queue =
            if self.events_and_acks.records.is_empty() { &mut self.deliveries } else { &mut self.events_and_acks };
        let records = queue.take(max_records, max_bytes);
        if records.is_empty() {
            return None;
        }
        let mut owned = BTreeMap::new();
        for record in &records {
            let key = (record.topic.clone(), record.partition);
            if let Some(partition) = self.owned.get(&key) {
                owned.entry(key).or_insert(*partition);
            }
        }
        Some(Batch { records, owned })
    }

    /// Takes over a position that was written, unless the partition was claimed again since.
    pub(crate) fn mark_committed(&mut self, key: &TopicPartition, written: &OwnedPartition) {
        if let Some(partition) = self.owned.get_mut(key)
            && partition.epoch == written.epoch
        {
            partition.committed = written.committed;
            partition.record_time_ms = written.record_time_ms;
            // The first record that was collected meanwhile is at least as new as the last one written.
            partition.waiting_since_ms =
                written.record_time_ms.filter(|_| partition.next_to_collect > partition.committed);
        }
    }

    /// Releases a partition that another instance has claimed. `false`: it was released before, or was claimed again
    /// since.
    pub(crate) fn release_fenced(&mut self, key: &TopicPartition, epoch: i64) -> bool {
        let is_owned = self.owned.get(key).is_some_and(|partition| partition.epoch == epoch);
        if is_owned {
            self.release(&key.0, key.1);
        }
        is_owned
    }

    /// The owned partitions.
    pub(crate) fn owned(&self) -> impl Iterator<Item = (&TopicPartition, &OwnedPartition)> {
        self.owned.iter()
    }
}

#[cfg(test)]
mod tests;
