//! Which of two events under one key is the original. Pure: what is stored already is an argument.
//!
//! Within a partition the lower offset wins, for as long as its window lasts; across partitions the one that is read
//! first. Windows are on append time. Decisions are taken here and only here; table `event_ids` keeps them for later
//! readings.

use std::collections::{BTreeMap, BTreeSet};

use schemas::ids::{EventId, OrgId};
use schemas::records::{Dedup, DedupKind, Event};

use super::event_row::EventRow;

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

/// Duplicate decisions by event id: `None` is an event, `Some` a duplicate of that event.
pub(crate) type Decisions = BTreeMap<(OrgId, EventId), Option<EventId>>;

/// The keys that these rows name. Their holders must be known to decide.
pub(crate) fn keys(rows: &[&mut EventRow<'_>]) -> BTreeSet<Key> {
    rows.iter().filter_map(|row| key_of(row.event)).collect()
}

/// Sets `duplicate_of` of the rows, in their order, and returns the keys that get another holder than before. `known`
/// has the holders so far. An id that is decided keeps its decision and takes no key, also in a record without a key:
/// an event that comes again, in another record, is still the same event.
pub(crate) fn decide(
    rows: &mut [&mut EventRow<'_>],
    known: &BTreeMap<Key, Holder>,
    decided: &Decisions,
) -> BTreeMap<Key, Holder> {
    let mut holders: BTreeMap<Key, Holder> = BTreeMap::new();
    let mut decided_here = Decisions::new();
    for row in rows {
        let original = decided_here.get(&row.id()).or_else(|| decided.get(&row.id())).copied().unwrap_or_else(|| {
            let (key, dedup) = (key_of(row.event)?, row.event.dedup.as_ref()?);
            let holder = holders.get(&key).or_else(|| known.get(&key));
            match holder.map(|holder| relation(holder, row.event.event_id, dedup, row.accepted_at_ms)) {
                Some(Relation::Duplicate(original)) => Some(original),
                Some(Relation::Separate) => None,
                Some(Relation::NextHolder) | None => {
                    holders.insert(key, Holder::new(row.event.event_id, dedup, row.accepted_at_ms));
                    None
                }
            }
        });
        decided_here.insert(row.id(), original);
        row.duplicate_of = original;
    }
    holders
}

/// What an event is to the holder of its key.
enum Relation {
    /// A duplicate of that event.
    Duplicate(EventId),
    /// The next holder: the key is free again.
    NextHolder,
    /// An event of its own. The key stays with its holder.
    Separate,
}

fn relation(holder: &Holder, event_id: EventId, dedup: &Dedup, accepted_at_ms: i64) -> Relation {
    if holder.event_id == event_id {
        return Relation::Separate;
    }
    if holder.expires_at_ms <= accepted_at_ms {
        return Relation::NextHolder;
    }
    // Read long after a later one, from a partition that was behind: their windows do not overlap.
    let is_long_before = end_of_window(dedup, accepted_at_ms) <= holder.accepted_at_ms;
    // Two requests with one key and different bodies that raced on two instances: both were accepted, so both stay.
    let has_other_body = dedup.kind == DedupKind::IdempotencyKey && holder.body_hash != dedup.body_hash;
    if is_long_before || has_other_body { Relation::Separate } else { Relation::Duplicate(holder.event_id) }
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
