//! Offsets of the log that hold no record for consumers: transaction markers, and aborted records.
//!
//! librdkafka skips them silently. Where one is the last of its partition, a position that moves with records only
//! would stay before it: lag for ever, and after the retention a position outside of the log although no record was
//! lost.

use std::collections::HashMap;
use std::sync::Arc;

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};

use super::leader_epochs::ReadEpochs;
use crate::partition::TopicPartition;
use crate::{Record, ffi};

/// Next offset of each partition after the records that were sent to the owner.
#[derive(Default)]
pub(super) struct Markers(HashMap<TopicPartition, i64>);

impl Markers {
    /// Notes records that are sent to the owner.
    pub(super) fn note(&mut self, records: &[Record]) {
        for record in records {
            self.0.insert((record.topic.clone(), record.partition), record.offset + 1);
        }
    }

    /// A marker for each partition in which `client` is further than the records that were sent. Call it when `client`
    /// has no record to read. Notes the leader epochs of the markers in `epochs`.
    pub(super) fn find<C: ConsumerContext>(
        &mut self,
        client: &BaseConsumer<C>,
        epochs: &mut ReadEpochs,
    ) -> Vec<Record> {
        let (Ok(positions), Ok(assignment)) = (client.position(), client.assignment()) else { return Vec::new() };
        let mut found = Vec::new();
        let mut sent = HashMap::with_capacity(self.0.len());
        for element in assignment.elements() {
            let assigned: TopicPartition = (Arc::from(element.topic()), element.partition());
            let position =
                positions.find_partition(element.topic(), element.partition()).map(|position| position.offset());
            // Before its first record a partition is at the assigned offset.
            let sent_next = match (self.0.get(&assigned), element.offset()) {
                (Some(next), _) => *next,
                (None, Offset::Offset(next)) => next,
                (None, _) => continue,
            };
            if let Some(Offset::Offset(next)) = position
                && next > sent_next
            {
                epochs.note(&assigned.0, assigned.1, ffi::leader_epoch_in(&positions, &assigned.0, assigned.1));
                found.push(Record::marker(assigned.0.clone(), assigned.1, next - 1));
            }
            sent.insert(assigned, sent_next);
        }
        // Forget partitions that are not assigned any more: they may come back at another position.
        self.0 = sent;
        found
    }
}
