//! Positions of the partitions of a chunk.

use std::collections::BTreeMap;

use kafka::fence::Advance;
use kafka::partition::TopicPartition;

use crate::projector::batch::OwnedPartition;
use crate::projector::decode::DecodedRecord;

pub(super) type OwnedPartitions = BTreeMap<TopicPartition, OwnedPartition>;

pub(super) fn log_epoch_of(item: &DecodedRecord, owned: &OwnedPartitions) -> i32 {
    owned.get(&item.topic_partition()).map_or(1, |partition| partition.log_epoch)
}

/// The moves of the positions past `chunk`.
pub(super) fn advances_of(chunk: &[DecodedRecord], owned: &OwnedPartitions) -> Vec<Advance> {
    let mut advances: BTreeMap<TopicPartition, Advance> = BTreeMap::new();
    for item in chunk {
        let key = item.topic_partition();
        let Some(partition) = owned.get(&key) else { continue };
        let advance = advances.entry(key).or_insert_with_key(|(topic, number)| Advance {
            topic: topic.clone(),
            partition: *number,
            epoch: partition.epoch,
            expected: partition.committed,
            next: partition.committed,
            record_time_ms: None,
        });
        advance.next = item.record.offset + 1;
        advance.record_time_ms = item.log_time_ms().or(advance.record_time_ms);
    }
    advances.into_values().collect()
}

/// Sets the positions of the owned partitions past `chunk`.
pub(super) fn mark_written(chunk: &[DecodedRecord], owned: &mut OwnedPartitions) {
    for item in chunk {
        if let Some(partition) = owned.get_mut(&item.topic_partition()) {
            partition.committed = item.record.offset + 1;
            partition.record_time_ms = item.log_time_ms().or(partition.record_time_ms);
        }
    }
}
