//! Undecodable partitions: their next batch cannot be decoded. The watch finds them, and the thread that reads them
//! stops them, because only there it is sure that the partition is still owned and reading is still at the batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use tracing::error;

use super::assignments::{Assignments, next_offsets};
use super::{ConsumerEvent, EventSender};
use crate::partition::TopicPartition;

/// Undecodable partitions of one consumer. Cloning shares them.
#[derive(Clone, Default)]
pub(super) struct Undecodable(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Offset of the batch, and librdkafka's error text.
    found: BTreeMap<TopicPartition, (i64, String)>,
    /// Paused, because librdkafka would fetch the batch again and again. A pause survives a new assignment.
    paused: BTreeSet<TopicPartition>,
}

impl Undecodable {
    /// Notes that the batch at `offset` cannot be decoded.
    pub(super) fn add(&self, partition: TopicPartition, offset: i64, text: String) {
        self.lock().found.insert(partition, (offset, text));
    }

    /// Stops the undecodable partitions that `client` reads, and reports them to the owner.
    ///
    /// # Errors
    /// When librdkafka refuses to pause a partition.
    pub(super) fn stop<C: ConsumerContext>(
        &self,
        client: &BaseConsumer<C>,
        sender: &EventSender,
        assignments: &Assignments,
    ) -> Result<(), KafkaError> {
        if self.lock().found.is_empty() {
            return Ok(());
        }
        for (one, next) in next_offsets(client) {
            let Some((_, text)) = self.lock().found.remove(&one).filter(|(offset, _)| *offset == next) else {
                continue;
            };
            client.pause(&list([&one]))?;
            self.lock().paused.insert(one.clone());
            let (topic, partition) = one;
            let reason = reason(&topic, partition, next, &text);
            error!(%topic, partition, offset = next, reason, "Batch cannot be decoded; stopping its partition.");
            assignments.mark_stopped(&topic, partition);
            let _sent = sender.send(ConsumerEvent::Stopped { topic, partition, reason });
        }
        Ok(())
    }

    /// Forgets partitions that `client` does not read any more, and ends their pause for the next reader.
    pub(super) fn forget<C: ConsumerContext>(&self, client: &BaseConsumer<C>, topics: &[Arc<str>], partitions: &[i32]) {
        let is_gone = |one: &TopicPartition| topics.contains(&one.0) && partitions.contains(&one.1);
        let mut state = self.lock();
        state.found.retain(|one, _| !is_gone(one));
        let gone: Vec<TopicPartition> = state.paused.iter().filter(|one| is_gone(one)).cloned().collect();
        state.paused.retain(|one| !is_gone(one));
        drop(state);
        if !gone.is_empty()
            && let Err(error) = client.resume(&list(&gone))
        {
            // The watch finds a partition that stays paused as stalled, and the consumer is restarted.
            error!(%error, "Paused partitions could not be resumed; the stall check restarts the consumer.");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn list<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

fn reason(topic: &str, partition: i32, offset: i64, text: &str) -> String {
    format!(
        "the batch at offset {offset} cannot be decoded: {text}. To skip it, with OFFSET the first offset after it: \
         triggers positions skip --topic {topic} --partition {partition} --to OFFSET"
    )
}
