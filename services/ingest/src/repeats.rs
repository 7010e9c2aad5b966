//! What ingest knows of repeats: recent keys of this instance, and what the view has decided.
//!
//! Best effort by design. Without an answer in time the event is accepted and the materializer decides; one inbox row
//! does not depend on what is found here. Only successes are remembered: a reservation that fails or is dropped leaves
//! nothing behind.

mod lookup;

use std::sync::Arc;
use std::time::Duration;

use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use platform::http::Problem;
use platform::lifecycle::Supervisor;
use schemas::dedup::CONTENT_WINDOW_SECONDS;
use schemas::ids::OrgId;
use schemas::records::{Dedup, DedupKind, Event};
use sqlx::postgres::PgPool;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::reply::Accepted;
use lookup::Lookup;

/// What remembered keys may take per instance, all in all; those that go are found in the view.
const RECENT_BYTES: u64 = 128 * 1024 * 1024;
/// An entry without its texts of variable length, roughly.
const ENTRY_BYTES: usize = 1024;
/// No longer than the shortest window: a key past its window is free again.
const RECENT_FOR: Duration = Duration::from_secs(CONTENT_WINDOW_SECONDS as u64);

/// The event that has a key.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) accepted: Accepted,
    /// SHA-256 of its request body, hex.
    pub(crate) body_hash: String,
}

/// Whether a key is free.
pub(crate) enum Place {
    /// An event has it.
    Taken(Known),
    /// Nobody has it as far as is known; twins on this instance wait for what comes of it.
    Free(Reservation),
}

/// Recognizes repeats. Cloning shares what is known.
#[derive(Clone)]
pub(crate) struct Repeats {
    recent: Cache<Key, Arc<Slot>>,
    lookup: Lookup,
    /// How long a twin waits in all for the first of its kind.
    twin_deadline: Duration,
}

type Key = (OrgId, DedupKind, String);

/// The event under a key, or why it could not be appended: its twins are told the same.
type Outcome = Result<Known, Problem>;

/// A key's state: not yet answered, or answered. A closed channel is a reservation whose request went away.
struct Slot {
    state: watch::Receiver<Option<Outcome>>,
    /// What the entry takes, bytes.
    weight: u32,
}

/// The right to be the first under a key.
pub(crate) struct Reservation {
    repeats: Repeats,
    key: Key,
    slot: Arc<Slot>,
    state: watch::Sender<Option<Outcome>>,
    body_hash: String,
    settled: bool,
}

impl Repeats {
    /// Starts to look up, under `supervisor`. `twin_deadline`: a little more than the log is given to answer.
    pub(crate) fn start(supervisor: &mut Supervisor, pool: PgPool, twin_deadline: Duration) -> Self {
        let recent = Cache::builder()
            .max_capacity(RECENT_BYTES)
            .weigher(|_key, slot: &Arc<Slot>| slot.weight)
            // The default may refuse a new key for the sake of old ones, and the new ones are those whose twins come.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(RECENT_FOR)
            .build();
        Self { recent, lookup: Lookup::start(supervisor, pool), twin_deadline }
    }

    /// Finds the event that has the key, or reserves it.
    ///
    /// # Errors
    /// What a twin was refused with that was in flight meanwhile.
    pub(crate) async fn find(&self, event: &Event, dedup: &Dedup) -> Result<Place, Problem> {
        let key = (event.org_id, dedup.kind, dedup.key.clone());
        let weight = u32::try_from(ENTRY_BYTES + dedup.key.len() + event.event_type.len()).unwrap_or(u32::MAX);
        let deadline = Instant::now() + self.twin_deadline;
        loop {
            let (sender, state) = watch::channel(None);
            let mine = Arc::new(Slot { state, weight });
            let slot = self.recent.get_with(key.clone(), || mine.clone());
            if Arc::ptr_eq(&slot, &mine) {
                return Ok(self.look_up(key, slot, sender, event, dedup).await);
            }
            let mut twin = slot.state.clone();
            match timeout_at(deadline, twin.wait_for(Option::is_some)).await {
                Ok(Ok(outcome)) => {
                    if let Some(outcome) = outcome.clone() {
                        return outcome.map(Place::Taken);
                    }
                }
                // Its client went away, and it is forgotten (or about to be): be the first oneself.
                Ok(Err(_)) => self.forget(&key, &slot),
                // Too slow to wait for: accept, and let the materializer decide.
                Err(_) => return Ok(Place::Free(Reservation::unshared(self.clone(), key, dedup))),
            }
        }
    }

    async fn look_up(
        &self,
        key: Key,
        slot: Arc<Slot>,
        state: watch::Sender<Option<Outcome>>,
        event: &Event,
        dedup: &Dedup,
    ) -> Place {
        let mut reservation =
            Reservation { repeats: self.clone(), key, slot, state, body_hash: dedup.body_hash.clone(), settled: false };
        match self.lookup.find(&reservation.key).await {
            Some(holder) => {
                let accepted = Accepted {
                    event_id: holder.event_id,
                    // The view's keys do not hold the type; a repeat has the one that was just sent.
                    event_type: event.event_type.clone(),
                    accepted_at_ms: holder.accepted_at_ms,
                    position: None,
                };
                let known = Known { accepted, body_hash: holder.body_hash };
                // Not kept: the view knows when the key's window ends, the cache does not.
                reservation.forget();
                reservation.settle(Ok(known.clone()));
                Place::Taken(known)
            }
            None => Place::Free(reservation),
        }
    }

    /// Forgets the key, unless somebody else has reserved it meanwhile.
    fn forget(&self, key: &Key, slot: &Arc<Slot>) {
        // In one step: between a look and a removal another twin may have removed it and reserved the key anew.
        self.recent.entry_by_ref(key).and_compute_with(|current| match current {
            Some(current) if Arc::ptr_eq(current.value(), slot) => Op::Remove,
            _ => Op::Nop,
        });
    }
}

impl Reservation {
    /// A reservation that no twin sees.
    fn unshared(repeats: Repeats, key: Key, dedup: &Dedup) -> Self {
        let (state, receiver) = watch::channel(None);
        Self {
            repeats,
            key,
            slot: Arc::new(Slot { state: receiver, weight: 0 }),
            state,
            body_hash: dedup.body_hash.clone(),
            settled: false,
        }
    }

    /// Remembers what was accepted, and tells the twins.
    pub(crate) fn fill(mut self, accepted: Accepted) {
        let body_hash = std::mem::take(&mut self.body_hash);
        self.settle(Ok(Known { accepted, body_hash }));
    }

    /// Tells the twins that wait what the first was refused with, and remembers nothing: who comes later is the first
    /// again.
    pub(crate) fn fail(mut self, problem: Problem) {
        self.forget();
        self.settle(Err(problem));
    }

    fn forget(&self) {
        self.repeats.forget(&self.key, &self.slot);
    }

    fn settle(&mut self, outcome: Outcome) {
        self.settled = true;
        // Into the slot itself, which outlives this sender in the cache.
        self.state.send_replace(Some(outcome));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.settled {
            self.forget();
        }
    }
}
