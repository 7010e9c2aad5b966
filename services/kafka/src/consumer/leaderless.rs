//! Assigned partitions that are leaderless: the brokers did not report the bounds of their logs. They are neither
//! claimed nor read. The watch asks the brokers again; the group client claims the partitions when a leader answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::partition::TopicPartition;

/// Each leaderless partition, and whether its leader has answered since the last claim. Cloning shares them.
#[derive(Clone, Default)]
pub(super) struct Leaderless(Arc<Mutex<BTreeMap<TopicPartition, bool>>>);

impl Leaderless {
    pub(super) fn add(&self, partition: TopicPartition) {
        self.lock().insert(partition, false);
    }

    pub(super) fn remove(&self, partition: &TopicPartition) {
        self.lock().remove(partition);
    }

    pub(super) fn forget(&self, partitions: &[i32]) {
        self.lock().retain(|(_, partition), _| !partitions.contains(partition));
    }

    /// All, by topic.
    pub(super) fn all(&self) -> BTreeMap<Arc<str>, Vec<i32>> {
        by_topic(self.lock().keys())
    }

    /// Notes that the leader of `partition` answers, if the partition is still leaderless.
    pub(super) fn mark_answering(&self, partition: &TopicPartition) {
        if let Some(is_answering) = self.lock().get_mut(partition) {
            *is_answering = true;
        }
    }

    /// Partitions to claim now, by topic. Each is returned once per answer: after a failed claim it waits for the next
    /// answer.
    pub(super) fn take_answering(&self) -> BTreeMap<Arc<str>, Vec<i32>> {
        let mut partitions = self.lock();
        by_topic(partitions.iter_mut().filter_map(|(one, is_answering)| std::mem::take(is_answering).then_some(one)))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn by_topic<'a>(partitions: impl Iterator<Item = &'a TopicPartition>) -> BTreeMap<Arc<str>, Vec<i32>> {
    let mut topics: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in partitions {
        topics.entry(topic.clone()).or_default().push(*partition);
    }
    topics
}
