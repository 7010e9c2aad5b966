//! Which of two events under one key is the original. Pure: what is stored already is an argument.
//!
//! Within a partition the lower offset wins, for as long as its window lasts; across partitions the one that is read
//! first. Windows are on append time. Taking a decision happens here and only here; keeping it (`verdicts`) is what
//! later readings go by.

use std::collections::{BTreeMap, BTreeSet};

use schemas::ids::{EventId, OrgId};
use schemas::records::{Dedup, DedupKind, Event};

/// A key within its organization and namespace.
pub(crate) type Key = (OrgId, DedupKind, String);

/// The event that has a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) event_id: EventId,
    /// SHA-256 of its request body, hex.
    pub(crate) body_hash: String,
    /// Milliseconds since the Unix epoch.
    pub(crate) accepted_at_ms: i64,
    /// Milliseconds since the Unix epoch; from then on the key is free.
    pub(crate) expires_at_ms: i64,
}

/// What was decided of events before: nothing stands against the event, or it is a duplicate of that one.
pub(crate) type Settled = BTreeMap<(OrgId, EventId), Option<EventId>>;

/// What was decided of a batch.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// Index of each duplicate, and its original.
    pub(crate) duplicates: BTreeMap<usize, EventId>,
    /// Keys that have another holder than before.
    pub(crate) holders: BTreeMap<Key, Holder>,
}

/// The keys that `events` name; what holds them now must be known to decide.
pub(crate) fn keys<'a>(events: impl Iterator<Item = &'a Event>) -> BTreeSet<Key> {
    events.filter_map(key_of).collect()
}

/// Decides over `events` (with their acceptance times, milliseconds) in their order; `known` is what holds their keys
/// so far. What is `settled` stays so and takes no key: an event that comes again, in another record, is still the same
/// event. So is one that comes again without a key.
pub(crate) fn decide(events: &[(&Event, i64)], known: &BTreeMap<Key, Holder>, settled: &Settled) -> Decision {
    let mut decision = Decision::default();
    let mut settled_here = Settled::new();
    for (index, (event, accepted_at_ms)) in events.iter().enumerate() {
        let name = (event.org_id, event.event_id);
        let original = settled_here.get(&name).or_else(|| settled.get(&name)).copied().unwrap_or_else(|| {
            let (key, dedup) = (key_of(event)?, event.dedup.as_ref()?);
            let holder = decision.holders.get(&key).or_else(|| known.get(&key));
            match holder.map(|holder| standing(holder, event.event_id, dedup, *accepted_at_ms)) {
                Some(Standing::Repeat(original)) => Some(original),
                Some(Standing::Apart) => None,
                Some(Standing::First) | None => {
                    decision.holders.insert(key, Holder::new(event.event_id, dedup, *accepted_at_ms));
                    None
                }
            }
        });
        settled_here.insert(name, original);
        decision.duplicates.extend(original.map(|original| (index, original)));
    }
    decision
}

/// How an event stands to the holder of its key.
enum Standing {
    /// It is a repeat of that one.
    Repeat(EventId),
    /// The key is free again.
    First,
    /// It stays an event, and the key stays with its holder.
    Apart,
}

fn standing(holder: &Holder, event_id: EventId, dedup: &Dedup, accepted_at_ms: i64) -> Standing {
    if holder.event_id == event_id {
        return Standing::Apart;
    }
    if holder.expires_at_ms <= accepted_at_ms {
        return Standing::First;
    }
    // Read long after a later one, from a partition that was behind: their windows do not meet.
    let is_long_before = end_of_window(dedup, accepted_at_ms) <= holder.accepted_at_ms;
    // Twins with different bodies that raced on two instances: both were accepted, so both stay.
    let is_other_twin = dedup.kind == DedupKind::IdempotencyKey && holder.body_hash != dedup.body_hash;
    if is_long_before || is_other_twin { Standing::Apart } else { Standing::Repeat(holder.event_id) }
}

impl Holder {
    fn new(event_id: EventId, dedup: &Dedup, accepted_at_ms: i64) -> Self {
        Self {
            event_id,
            body_hash: dedup.body_hash.clone(),
            accepted_at_ms,
            expires_at_ms: end_of_window(dedup, accepted_at_ms),
        }
    }
}

fn end_of_window(dedup: &Dedup, accepted_at_ms: i64) -> i64 {
    accepted_at_ms.saturating_add(dedup.window_seconds.saturating_mul(1000))
}

fn key_of(event: &Event) -> Option<Key> {
    let dedup = event.dedup.as_ref()?;
    Some((event.org_id, dedup.kind, dedup.key.clone()))
}

#[cfg(test)]
mod tests;
