//! Partitions whose next batch does not decode, from the watch that found them to the thread that reads them: only
//! there it is sure that the partition is still owned and reading is still at the batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use tracing::error;

use super::assignments::{Assignments, Place, reached};
use super::{ConsumerEvent, EventSender};

/// Cloning shares it.
#[derive(Clone, Default)]
pub(super) struct Undecodable(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Offset of the batch, and what librdkafka says of it.
    found: BTreeMap<Place, (i64, String)>,
    /// librdkafka would fetch the batch over and over, so this is turned off. It keeps that over an assignment.
    paused: BTreeSet<Place>,
}

impl Undecodable {
    /// The batch at `offset` of `place` does not decode.
    pub(super) fn found(&self, place: Place, offset: i64, text: String) {
        self.lock().found.insert(place, (offset, text));
    }

    /// Stops the partitions that `client` reads and whose next batch does not decode, and reports them to the owner.
    ///
    /// # Errors
    /// When librdkafka refuses to pause a partition.
    pub(super) fn stop<C: ConsumerContext>(
        &self,
        client: &BaseConsumer<C>,
        outlet: &EventSender,
        held: &Assignments,
    ) -> Result<(), KafkaError> {
        if self.lock().found.is_empty() {
            return Ok(());
        }
        for (place, next) in reached(client) {
            let Some((_, text)) = self.lock().found.remove(&place).filter(|(offset, _)| *offset == next) else {
                continue;
            };
            client.pause(&list([&place]))?;
            self.lock().paused.insert(place.clone());
            let (topic, partition) = place;
            let reason = reason(&topic, partition, next, &text);
            error!(%topic, partition, offset = next, reason, "A batch does not decode; its partition is stopped.");
            held.stopped(&topic, partition);
            let _told = outlet.send(ConsumerEvent::Stopped { topic, partition, reason });
        }
        Ok(())
    }

    /// Partitions that `client` reads no more: the next reader starts afresh.
    pub(super) fn forget<C: ConsumerContext>(&self, client: &BaseConsumer<C>, topics: &[Arc<str>], partitions: &[i32]) {
        let is_gone = |place: &Place| topics.contains(&place.0) && partitions.contains(&place.1);
        let mut state = self.lock();
        state.found.retain(|place, _| !is_gone(place));
        let gone: Vec<Place> = state.paused.iter().filter(|place| is_gone(place)).cloned().collect();
        state.paused.retain(|place| !is_gone(place));
        drop(state);
        if !gone.is_empty()
            && let Err(error) = client.resume(&list(&gone))
        {
            // The stall watch finds a partition that stays paused, and the consumer is restarted.
            error!(%error, "A stopped partition could not be resumed.");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn list<'a>(places: impl IntoIterator<Item = &'a Place>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in places {
        list.add_partition(topic, *partition);
    }
    list
}

fn reason(topic: &str, partition: i32, offset: i64, text: &str) -> String {
    format!(
        "the batch at offset {offset} does not decode: {text}. To go past it, with OFFSET the first offset behind it: \
         triggers positions skip --topic {topic} --partition {partition} --to OFFSET"
    )
}
