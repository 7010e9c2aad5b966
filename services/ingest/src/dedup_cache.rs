//! The dedup cache: dedup keys that this instance accepted recently, and the responses that it gave to them.
//!
//! Best effort by design. If the view does not answer in time, the event is accepted and the materializer decides; the
//! number of inbox rows does not depend on this cache. Only successes are kept: a reservation that fails or is dropped
//! leaves no entry.

use std::sync::Arc;
use std::time::Duration;

use http_server::Problem;
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use runtime::lifecycle::Supervisor;
use runtime::seal::SealingKey;
use schemas::dedup::CONTENT_WINDOW_SECONDS;
use schemas::position::RecordPosition;
use schemas::records::{Dedup, Event};
use sqlx::postgres::PgPool;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::dedup_lookup::{DedupKey, DedupLookup};
use crate::reply::{self, Accepted};
use crate::turn::Turn;

/// Memory of all entries of an instance. Evicted keys are found in the view.
const CACHE_BYTES: u64 = 128 * 1024 * 1024;
/// Approximate size of an entry without its texts of variable length.
const ENTRY_BYTES: usize = 1024;
/// The shortest dedup window: an entry must not outlive the window of its key.
const TIME_TO_LIVE: Duration = Duration::from_secs(CONTENT_WINDOW_SECONDS as u64);

/// The response to the original event of a dedup key.
#[derive(Debug, Clone)]
pub(crate) struct CachedResponse {
    pub(crate) accepted: Accepted,
    /// SHA-256 of the request body, hex.
    pub(crate) body_hash: String,
    /// Whether `accepted` has the type of the original; else it has that of the duplicate.
    pub(crate) is_type_known: bool,
}

pub(crate) enum Reserved {
    /// The event is a duplicate of an accepted one.
    Duplicate(CachedResponse),
    /// No accepted event is known under the key. Concurrent duplicates on this instance wait for the outcome.
    Original(Reservation),
}

/// Recognizes duplicates. Cloning shares the entries.
#[derive(Clone)]
pub(crate) struct DedupCache {
    entries: Cache<DedupKey, Arc<Entry>>,
    lookup: DedupLookup,
    sealing: SealingKey,
    /// How long a concurrent duplicate waits in all for the outcome of the first request.
    wait_timeout: Duration,
}

/// The response to the event of a key, or the error of its append. Concurrent duplicates are answered with the same.
type AppendOutcome = Result<CachedResponse, Problem>;

struct Entry {
    /// `None` while the first request has no answer. A closed channel means that its client disconnected.
    outcome: watch::Receiver<Option<AppendOutcome>>,
    /// Size of the entry, bytes.
    weight: u32,
}

/// The right to append the event of a key. Dropping it without an outcome removes the entry.
pub(crate) struct Reservation {
    cache: DedupCache,
    key: DedupKey,
    entry: Arc<Entry>,
    outcome: watch::Sender<Option<AppendOutcome>>,
    body_hash: String,
    published: bool,
}

impl DedupCache {
    /// Starts the lookup task under `supervisor`. `wait_timeout`: slightly longer than the producer's delivery timeout.
    pub(crate) fn start(
        supervisor: &mut Supervisor,
        pool: PgPool,
        sealing: SealingKey,
        wait_timeout: Duration,
    ) -> Self {
        let entries = Cache::builder()
            .max_capacity(CACHE_BYTES)
            .weigher(|_key, entry: &Arc<Entry>| entry.weight)
            // The default policy may refuse new keys in favor of old ones, but duplicates follow new keys.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_live(TIME_TO_LIVE)
            .build();
        Self { entries, lookup: DedupLookup::start(supervisor, pool), sealing, wait_timeout }
    }

    /// Finds the accepted event of the dedup key, or reserves the key. A concurrent duplicate leaves its turn: it may
    /// wait long, and is appended only in the rare case that the first request has no outcome.
    ///
    /// # Errors
    /// The error of the concurrent request, or of the item of the same batch, that held the key.
    pub(crate) async fn find_or_reserve(
        &self,
        event: &Event,
        dedup: &Dedup,
        turn: &mut Turn<'_>,
    ) -> Result<Reserved, Problem> {
        let key = (event.org_id, dedup.kind, dedup.key.clone());
        let weight = u32::try_from(ENTRY_BYTES + dedup.key.len() + event.event_type.len()).unwrap_or(u32::MAX);
        let deadline = Instant::now() + self.wait_timeout;
        loop {
            let (sender, outcome) = watch::channel(None);
            let new = Arc::new(Entry { outcome, weight });
            let entry = self.entries.get_with(key.clone(), || new.clone());
            if Arc::ptr_eq(&entry, &new) {
                return Ok(self.look_up(key, entry, sender, event, dedup).await);
            }
            turn.leave();
            let mut concurrent = entry.outcome.clone();
            match timeout_at(deadline, concurrent.wait_for(Option::is_some)).await {
                Ok(Ok(outcome)) => {
                    if let Some(outcome) = outcome.clone() {
                        return outcome.map(Reserved::Duplicate);
                    }
                }
                // The client of the first request disconnected: remove the entry and try to reserve the key.
                Ok(Err(_)) => self.remove(&key, &entry),
                // The first request takes too long: accept the event, and let the materializer decide.
                Err(_) => return Ok(Reserved::Original(Reservation::unshared(self.clone(), key, dedup))),
            }
        }
    }

    async fn look_up(
        &self,
        key: DedupKey,
        entry: Arc<Entry>,
        outcome: watch::Sender<Option<AppendOutcome>>,
        event: &Event,
        dedup: &Dedup,
    ) -> Reserved {
        let mut reservation = Reservation {
            cache: self.clone(),
            key,
            entry,
            outcome,
            body_hash: dedup.body_hash.clone(),
            published: false,
        };
        match self.lookup.find(&reservation.key).await {
            Some(original) => {
                let is_type_known = original.event_type.is_some();
                let position = original.offset.map(|(partition, offset)| RecordPosition {
                    partition,
                    offset,
                    appended_at_ms: original.accepted_at_ms,
                });
                let accepted = Accepted {
                    event_id: original.event_id,
                    event_type: original.event_type.unwrap_or_else(|| event.event_type.clone()),
                    accepted_at_ms: Some(original.accepted_at_ms),
                    position: position
                        .map(|position| reply::position_tokens(&self.sealing, event.org_id).seal(&position.to_bytes())),
                };
                let response = CachedResponse { accepted, body_hash: original.body_hash, is_type_known };
                // Not cached: the view knows when the window of the key ends, the cache does not.
                reservation.remove();
                reservation.publish(Ok(response.clone()));
                Reserved::Duplicate(response)
            }
            None => Reserved::Original(reservation),
        }
    }

    /// Removes the entry, unless another request has replaced it meanwhile.
    fn remove(&self, key: &DedupKey, entry: &Arc<Entry>) {
        // Atomic: between a read and a removal, a concurrent duplicate may have removed it and reserved the key again.
        self.entries.entry_by_ref(key).and_compute_with(|current| match current {
            Some(current) if Arc::ptr_eq(current.value(), entry) => Op::Remove,
            _ => Op::Nop,
        });
    }
}

impl Reservation {
    /// A reservation that is not in the cache, so that no concurrent duplicate waits for it.
    fn unshared(cache: DedupCache, key: DedupKey, dedup: &Dedup) -> Self {
        let (outcome, receiver) = watch::channel(None);
        Self {
            cache,
            key,
            entry: Arc::new(Entry { outcome: receiver, weight: 0 }),
            outcome,
            body_hash: dedup.body_hash.clone(),
            published: false,
        }
    }

    /// Caches the response, and answers the concurrent duplicates with it.
    pub(crate) fn complete(mut self, accepted: Accepted) {
        let body_hash = std::mem::take(&mut self.body_hash);
        self.publish(Ok(CachedResponse { accepted, body_hash, is_type_known: true }));
    }

    /// Answers the waiting concurrent duplicates with the error, and removes the entry: the next request appends.
    pub(crate) fn fail(mut self, problem: Problem) {
        self.remove();
        self.publish(Err(problem));
    }

    fn remove(&self) {
        self.cache.remove(&self.key, &self.entry);
    }

    fn publish(&mut self, outcome: AppendOutcome) {
        self.published = true;
        // `send_replace` stores the outcome in the channel even without a receiver; the cached entry is read later.
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.published {
            self.remove();
        }
    }
}
