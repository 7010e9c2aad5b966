//! Places on the log that hold no record of anybody's: the ends of transactions, and what was aborted.
//!
//! librdkafka passes them in silence. Where one is the last of its partition, a position that moves with records only
//! would stay before it: lag for ever, and after the retention a position outside of the log although nothing was lost.

use std::collections::HashMap;
use std::sync::Arc;

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};

use super::leader_epochs::ReadEpochs;
use crate::{Record, ffi};

/// How far each partition was handed over: (topic, partition) -> next offset.
#[derive(Default)]
pub(super) struct Markers(HashMap<(Arc<str>, i32), i64>);

impl Markers {
    /// Notes what is handed over.
    pub(super) fn note(&mut self, records: &[Record]) {
        for record in records {
            self.0.insert((record.topic.clone(), record.partition), record.offset + 1);
        }
    }

    /// A marker for each partition in which `client` stands further than was handed over. To be asked when it has
    /// nothing more to read. Their leader epochs are noted in `epochs`.
    pub(super) fn find<C: ConsumerContext>(
        &mut self,
        client: &BaseConsumer<C>,
        epochs: &mut ReadEpochs,
    ) -> Vec<Record> {
        let (Ok(positions), Ok(assigned)) = (client.position(), client.assignment()) else { return Vec::new() };
        let mut found = Vec::new();
        let mut reached = HashMap::with_capacity(self.0.len());
        for element in assigned.elements() {
            let place: (Arc<str>, i32) = (Arc::from(element.topic()), element.partition());
            let position =
                positions.find_partition(element.topic(), element.partition()).map(|position| position.offset());
            // Before its first record a partition stands where it was assigned.
            let handed_over = match (self.0.get(&place), element.offset()) {
                (Some(next), _) => *next,
                (None, Offset::Offset(next)) => next,
                (None, _) => continue,
            };
            if let Some(Offset::Offset(next)) = position
                && next > handed_over
            {
                epochs.note(&place.0, place.1, ffi::leader_epoch_in(&positions, &place.0, place.1));
                found.push(Record::marker(place.0.clone(), place.1, next - 1));
            }
            reached.insert(place, handed_over);
        }
        // What is assigned no more is forgotten: it may come back at another position.
        self.0 = reached;
        found
    }
}
