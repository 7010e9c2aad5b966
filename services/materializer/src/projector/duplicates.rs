//! Decides which of two events with one dedup key is the original. Pure: stored decisions and key owners are arguments.
//!
//! Within a partition the lower offset is the original, until its window ends. Across partitions it is the record that
//! is read first. Windows use append time. Decisions are taken only here; the table `event_ids` keeps them for later
//! readings.

use std::collections::{BTreeMap, BTreeSet};

use schemas::ids::{EventId, OrgId};
use schemas::records::{Dedup, DedupKind, Event};

use super::event_row::EventRow;

/// A dedup key within its organization and namespace.
pub(crate) type Key = (OrgId, DedupKind, String);

/// The event that owns a dedup key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyOwner {
    pub(crate) event_id: EventId,
    /// SHA-256 of its request body, hex.
    pub(crate) body_hash: String,
    /// Milliseconds since the Unix epoch.
    pub(crate) accepted_at_ms: i64,
    /// Milliseconds since the Unix epoch. From then on the key is free.
    pub(crate) expires_at_ms: i64,
}

/// Duplicate decisions by event id: `None` for an event, `Some` for a duplicate of that event.
pub(crate) type Decisions = BTreeMap<(OrgId, EventId), Option<EventId>>;

/// The keys of these rows. [`decide`] needs their owners.
pub(crate) fn keys(rows: &[&mut EventRow<'_>]) -> BTreeSet<Key> {
    rows.iter().filter_map(|row| key_of(row.event)).collect()
}

/// Sets `duplicate_of` of the rows, in their order, and returns the keys that get a new owner. `stored` has the current
/// owners. An id that is decided keeps its decision and takes no key, even if its record has no key: an event that
/// comes again in another record is the same event.
pub(crate) fn decide(
    rows: &mut [&mut EventRow<'_>],
    stored: &BTreeMap<Key, KeyOwner>,
    decided: &Decisions,
) -> BTreeMap<Key, KeyOwner> {
    let mut owners: BTreeMap<Key, KeyOwner> = BTreeMap::new();
    let mut decided_here = Decisions::new();
    for row in rows {
        let original = decided_here.get(&row.id()).or_else(|| decided.get(&row.id())).copied().unwrap_or_else(|| {
            let (key, dedup) = (key_of(row.event)?, row.event.dedup.as_ref()?);
            let owner = owners.get(&key).or_else(|| stored.get(&key));
            match owner.map(|owner| relation(owner, row.event.event_id, dedup, row.accepted_at_ms)) {
                Some(Relation::Duplicate(original)) => Some(original),
                Some(Relation::Separate) => None,
                Some(Relation::NextOwner) | None => {
                    owners.insert(key, KeyOwner::new(row.event.event_id, dedup, row.accepted_at_ms));
                    None
                }
            }
        });
        decided_here.insert(row.id(), original);
        row.duplicate_of = original;
    }
    owners
}

/// Relation of an event to the owner of its key.
enum Relation {
    /// A duplicate of that event.
    Duplicate(EventId),
    /// The key is free again: the event becomes its owner.
    NextOwner,
    /// A separate event. The key keeps its owner.
    Separate,
}

fn relation(owner: &KeyOwner, event_id: EventId, dedup: &Dedup, accepted_at_ms: i64) -> Relation {
    if owner.event_id == event_id {
        return Relation::Separate;
    }
    if owner.expires_at_ms <= accepted_at_ms {
        return Relation::NextOwner;
    }
    // A record of a partition that was behind, read after a later one: their windows do not overlap.
    let is_long_before = end_of_window(dedup, accepted_at_ms) <= owner.accepted_at_ms;
    // Two instances accepted concurrent requests with one key and different bodies: both events stay.
    let has_other_body = dedup.kind == DedupKind::IdempotencyKey && owner.body_hash != dedup.body_hash;
    if is_long_before || has_other_body { Relation::Separate } else { Relation::Duplicate(owner.event_id) }
}

impl KeyOwner {
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
