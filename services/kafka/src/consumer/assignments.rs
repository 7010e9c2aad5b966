//! State that the threads of a consumer share with its watch: the claimed partitions, which of them are stopped, and
//! how far each client has read. Also the list of start offsets that both clients assign.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::POLL_TIMEOUT;
use crate::fence::Claim;
use crate::ffi;
use crate::log_identity::LogIdentity;
use crate::partition::TopicPartition;

const NOTE_INTERVAL: Duration = Duration::from_millis(250);

/// Claimed partitions of one consumer. Cloning shares them.
#[derive(Clone, Default)]
pub(super) struct Assignments(Arc<Mutex<BTreeMap<TopicPartition, Assignment>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) epoch: i64,
    /// The log that the stored position belongs to.
    pub(super) identity: LogIdentity,
    /// Highest leader epoch of the records that were read under this claim.
    pub(super) read_epoch: Option<i32>,
    /// Nothing is read: its position is outside of the log, or the next batch cannot be decoded.
    pub(super) is_stopped: bool,
}

impl Assignments {
    pub(super) fn insert(&self, claim: &Claim, identity: LogIdentity, is_stopped: bool) {
        let assignment = Assignment { epoch: claim.epoch, identity, read_epoch: None, is_stopped };
        self.lock().insert((claim.topic.clone(), claim.partition), assignment);
    }

    pub(super) fn get(&self, topic: &Arc<str>, partition: i32) -> Option<Assignment> {
        self.lock().get(&(topic.clone(), partition)).copied()
    }

    /// Sets the id of a topic in claims that were made without it.
    pub(super) fn set_topic_id(&self, topic: &Arc<str>, id: Uuid) {
        for (_, assignment) in self.lock().iter_mut().filter(|((of, _), _)| of == topic) {
            assignment.identity.topic_id.get_or_insert(id);
        }
    }

    /// Notes the highest leader epoch of a chunk of records.
    pub(super) fn note_read_epoch(&self, topic: &Arc<str>, partition: i32, leader_epoch: Option<i32>) {
        if let Some(assignment) = self.lock().get_mut(&(topic.clone(), partition)) {
            assignment.read_epoch = assignment.read_epoch.max(leader_epoch);
        }
    }

    /// Notes the leader epoch that was stored under the claim with this epoch.
    pub(super) fn set_leader_epoch(&self, topic: &Arc<str>, partition: i32, epoch: i64, leader_epoch: Option<i32>) {
        if let Some(assignment) =
            self.lock().get_mut(&(topic.clone(), partition)).filter(|assignment| assignment.epoch == epoch)
        {
            assignment.identity.leader_epoch = leader_epoch;
        }
    }

    pub(super) fn mark_stopped(&self, topic: &Arc<str>, partition: i32) {
        if let Some(assignment) = self.lock().get_mut(&(topic.clone(), partition)) {
            assignment.is_stopped = true;
        }
    }

    pub(super) fn forget(&self, partitions: &[i32]) {
        self.lock().retain(|(_, partition), _| !partitions.contains(partition));
    }

    pub(super) fn all(&self) -> BTreeMap<TopicPartition, Assignment> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, Assignment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far one client has read. Cloning shares it.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<Mutex<Reading>>);

/// See [`Progress`].
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    /// Time in which the client could have sent records. Time does not count while the owner is busy, during a
    /// rebalance, or while the process is paused.
    pub(super) polled: Duration,
    /// Next offset of each assigned partition.
    pub(super) next_offsets: BTreeMap<TopicPartition, i64>,
    noted_at: Option<Instant>,
}

impl Progress {
    /// Adds the duration of a poll, and updates the next offsets of `client` every 250 ms.
    pub(super) fn note<C: ConsumerContext>(&self, client: &BaseConsumer<C>, poll: Duration) {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A rebalance runs inside of a poll, which then takes longer than its timeout.
        reading.polled += poll.min(POLL_TIMEOUT);
        if reading.noted_at.is_none_or(|at| at.elapsed() >= NOTE_INTERVAL) {
            reading.noted_at = Some(Instant::now());
            reading.next_offsets = next_offsets(client).into_iter().collect();
        }
    }

    pub(super) fn snapshot(&self) -> Reading {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The next offset of each partition that is assigned to `client`.
pub(super) fn next_offsets<C: ConsumerContext>(client: &BaseConsumer<C>) -> Vec<(TopicPartition, i64)> {
    let (Ok(positions), Ok(assigned)) = (client.position(), client.assignment()) else { return Vec::new() };
    let mut offsets = Vec::with_capacity(assigned.count());
    for element in assigned.elements() {
        let (topic, partition) = (element.topic(), element.partition());
        let position = positions.find_partition(topic, partition).map(|position| position.offset());
        // Before its first record a partition has no position except the assigned offset.
        if let (Some(Offset::Offset(next)), _) | (_, Offset::Offset(next)) = (position, element.offset()) {
            offsets.push(((Arc::from(topic), partition), next));
        }
    }
    offsets
}

/// Start offsets of `claims`, with leader epochs: librdkafka validates them when the leader changes before the first
/// record is read. From then on it uses the epochs of the records.
pub(super) fn start_offsets(claims: &[Claim], assignments: &Assignments) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(claims.len());
    for Claim { topic, partition, next_offset, .. } in claims {
        let leader_epoch = assignments.get(topic, *partition).and_then(|assignment| assignment.identity.leader_epoch);
        ffi::add_with_leader_epoch(&mut list, topic, *partition, *next_offset, leader_epoch)?;
    }
    Ok(list)
}
