//! What ingest knows of repeats: recent keys of this instance, and what the view has decided.
//!
//! Best effort by design. Without an answer in time the event is accepted and the materializer decides; one inbox row does not depend on
//! what is found here. Only successes are remembered: a reservation that is dropped leaves nothing behind.

mod lookup;

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use schemas::ids::OrgId;
use schemas::records::{Dedup, DedupKind, Event};
use sqlx::postgres::PgPool;
use tokio::sync::watch;

use crate::reply::Accepted;
use lookup::Lookup;

/// Keys remembered per instance; older ones are found in the view.
const RECENT_KEYS: u64 = 200_000;
const RECENT_FOR: Duration = Duration::from_secs(300);
/// How long a twin waits for the first of its kind, a little more than the log is given to answer.
const TWIN_DEADLINE: Duration = Duration::from_secs(6);

/// What came of an event under a key.
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
}

type Key = (OrgId, DedupKind, String);

/// A key's state: not yet answered, or known. A closed channel is a reservation that came to nothing.
struct Slot {
    state: watch::Receiver<Option<Known>>,
}

/// The right to be the first under a key.
pub(crate) struct Reservation {
    repeats: Repeats,
    key: Key,
    slot: Arc<Slot>,
    state: watch::Sender<Option<Known>>,
    body_hash: String,
    filled: bool,
}

impl Repeats {
    /// Begins to look up on the current runtime.
    pub(crate) fn start(pool: PgPool) -> Self {
        let recent = Cache::builder().max_capacity(RECENT_KEYS).time_to_live(RECENT_FOR).build();
        Self { recent, lookup: Lookup::start(pool) }
    }

    /// Finds the event that has the key, or reserves it.
    pub(crate) async fn find(&self, event: &Event, dedup: &Dedup) -> Place {
        let key = (event.org_id, dedup.kind, dedup.key.clone());
        loop {
            let (sender, state) = watch::channel(None);
            let mine = Arc::new(Slot { state });
            let slot = self.recent.get_with(key.clone(), || mine.clone());
            if Arc::ptr_eq(&slot, &mine) {
                return self.look_up(key, slot, sender, event, dedup).await;
            }
            let mut twin = slot.state.clone();
            let answered = tokio::time::timeout(TWIN_DEADLINE, twin.wait_for(Option::is_some)).await;
            match answered {
                Ok(Ok(known)) => {
                    if let Some(known) = known.clone() {
                        return Place::Taken(known);
                    }
                }
                // It came to nothing and is forgotten (or about to be): be the first oneself.
                Ok(Err(_)) => self.forget(&key, &slot),
                // Too slow to wait for: accept, and let the materializer decide.
                Err(_) => return Place::Free(Reservation::unshared(self.clone(), key, dedup)),
            }
        }
    }

    async fn look_up(&self, key: Key, slot: Arc<Slot>, state: watch::Sender<Option<Known>>, event: &Event, dedup: &Dedup) -> Place {
        let mut reservation = Reservation { repeats: self.clone(), key, slot, state, body_hash: dedup.body_hash.clone(), filled: false };
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
                reservation.publish(known.clone());
                Place::Taken(known)
            }
            None => Place::Free(reservation),
        }
    }

    /// Forgets the key, unless somebody else has reserved it meanwhile.
    fn forget(&self, key: &Key, slot: &Arc<Slot>) {
        if self.recent.get(key).is_some_and(|current| Arc::ptr_eq(&current, slot)) {
            self.recent.invalidate(key);
        }
    }
}

impl Reservation {
    /// A reservation that no twin sees.
    fn unshared(repeats: Repeats, key: Key, dedup: &Dedup) -> Self {
        let (state, receiver) = watch::channel(None);
        Self { repeats, key, slot: Arc::new(Slot { state: receiver }), state, body_hash: dedup.body_hash.clone(), filled: false }
    }

    /// Remembers what was accepted, and tells the twins.
    pub(crate) fn fill(mut self, accepted: Accepted) {
        let body_hash = std::mem::take(&mut self.body_hash);
        self.publish(Known { accepted, body_hash });
    }

    fn publish(&mut self, known: Known) {
        self.filled = true;
        // Into the slot itself, which outlives this sender in the cache.
        self.state.send_replace(Some(known));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.filled {
            self.repeats.forget(&self.key, &self.slot);
        }
    }
}
