//! What a consumer has in hand, as its threads tell it to the one that watches over them: which places under which
//! claims, which of them are stopped, and how far each client has read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use uuid::Uuid;

use super::POLL_TIMEOUT;
use crate::fence::Claim;
use crate::log_state::LogIdentity;

/// One partition of one topic.
pub(super) type Place = (Arc<str>, i32);

const NOTE_INTERVAL: Duration = Duration::from_millis(250);

/// Claims of one consumer. Cloning shares them.
#[derive(Clone, Default)]
pub(super) struct Assignments(Arc<Mutex<BTreeMap<Place, Assignment>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) epoch: i64,
    /// Which log it is read in.
    pub(super) identity: LogIdentity,
    /// Highest leader epoch of the records that were read under this claim.
    pub(super) read_epoch: Option<i32>,
    /// Its position is outside of the log, or the next batch does not decode: nothing of it is read.
    pub(super) is_stopped: bool,
}

impl Assignments {
    pub(super) fn claimed(&self, claim: &Claim, identity: LogIdentity, is_stopped: bool) {
        let assignment = Assignment { epoch: claim.epoch, identity, read_epoch: None, is_stopped };
        self.lock().insert((claim.topic.clone(), claim.partition), assignment);
    }

    pub(super) fn get(&self, topic: &Arc<str>, partition: i32) -> Option<Assignment> {
        self.lock().get(&(topic.clone(), partition)).copied()
    }

    /// Notes the id of a topic for claims that were made without knowing it.
    pub(super) fn learned_topic_id(&self, topic: &Arc<str>, id: Uuid) {
        for (_, assignment) in self.lock().iter_mut().filter(|((of, _), _)| of == topic) {
            assignment.identity.topic_id.get_or_insert(id);
        }
    }

    /// Notes the highest leader epoch of records that were read.
    pub(super) fn note_read_epoch(&self, topic: &Arc<str>, partition: i32, leader_epoch: Option<i32>) {
        if let Some(assignment) = self.lock().get_mut(&(topic.clone(), partition)) {
            assignment.read_epoch = assignment.read_epoch.max(leader_epoch);
        }
    }

    /// Notes a leader epoch that was stored under the claim of this epoch.
    pub(super) fn stored_epoch(&self, topic: &Arc<str>, partition: i32, epoch: i64, leader_epoch: Option<i32>) {
        if let Some(assignment) =
            self.lock().get_mut(&(topic.clone(), partition)).filter(|assignment| assignment.epoch == epoch)
        {
            assignment.identity.leader_epoch = leader_epoch;
        }
    }

    pub(super) fn stopped(&self, topic: &Arc<str>, partition: i32) {
        if let Some(assignment) = self.lock().get_mut(&(topic.clone(), partition)) {
            assignment.is_stopped = true;
        }
    }

    pub(super) fn forget(&self, partitions: &[i32]) {
        self.lock().retain(|(_, partition), _| !partitions.contains(partition));
    }

    pub(super) fn all(&self) -> BTreeMap<Place, Assignment> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Assignment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far one client has read. Cloning shares it.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<Mutex<Reading>>);

/// See [`Progress`].
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    /// Time in which the client could have handed records over: it does not pass while the owner holds back, while
    /// partitions change hands or while the process is paused.
    pub(super) polled: Duration,
    /// Next offset of each place that is assigned.
    pub(super) reached: BTreeMap<Place, i64>,
    noted_at: Option<Instant>,
}

impl Progress {
    /// Notes a poll that took so long, and now and then where `client` stands.
    pub(super) fn note<C: ConsumerContext>(&self, client: &BaseConsumer<C>, poll: Duration) {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A rebalance is served inside of a poll, and then it takes longer than it waits for records.
        reading.polled += poll.min(POLL_TIMEOUT);
        if reading.noted_at.is_none_or(|at| at.elapsed() >= NOTE_INTERVAL) {
            reading.noted_at = Some(Instant::now());
            reading.reached = reached(client).into_iter().collect();
        }
    }

    pub(super) fn reading(&self) -> Reading {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The next offset of each place that `client` reads.
pub(super) fn reached<C: ConsumerContext>(client: &BaseConsumer<C>) -> Vec<(Place, i64)> {
    let (Ok(positions), Ok(assigned)) = (client.position(), client.assignment()) else { return Vec::new() };
    let mut reached = Vec::with_capacity(assigned.count());
    for element in assigned.elements() {
        let (topic, partition) = (element.topic(), element.partition());
        let position = positions.find_partition(topic, partition).map(|position| position.offset());
        // Before its first record a place has no position but the one that it was assigned with.
        if let (Some(Offset::Offset(next)), _) | (_, Offset::Offset(next)) = (position, element.offset()) {
            reached.push(((Arc::from(topic), partition), next));
        }
    }
    reached
}
