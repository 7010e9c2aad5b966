//! What a consumer has in hand, as its threads tell it to the one that watches over them: which places under which
//! claims, which of them are stopped, and how far each client has read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};

use super::POLL_TIMEOUT;
use crate::fence::Claim;

/// One partition of one topic.
pub(super) type Place = (Arc<str>, i32);

const NOTE_INTERVAL: Duration = Duration::from_millis(250);

/// Claims of one consumer. Cloning shares them.
#[derive(Clone, Default)]
pub(super) struct Held(Arc<Mutex<BTreeMap<Place, Hold>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) epoch: i64,
    /// Its position is outside of the log, or the next batch does not decode: nothing of it is read.
    pub(super) is_stopped: bool,
}

impl Held {
    pub(super) fn claimed(&self, claim: &Claim, is_stopped: bool) {
        self.lock().insert((claim.topic.clone(), claim.partition), Hold { epoch: claim.epoch, is_stopped });
    }

    pub(super) fn stopped(&self, topic: &Arc<str>, partition: i32) {
        if let Some(hold) = self.lock().get_mut(&(topic.clone(), partition)) {
            hold.is_stopped = true;
        }
    }

    pub(super) fn forget(&self, partitions: &[i32]) {
        self.lock().retain(|(_, partition), _| !partitions.contains(partition));
    }

    pub(super) fn all(&self) -> BTreeMap<Place, Hold> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Hold>> {
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
