//! Which of two events under one key is the original. Pure: what is stored already is an argument.
//!
//! Within a partition the lower offset wins, for as long as its window lasts. Taking a decision happens here and only here; keeping it
//! (`verdicts`) is what later readings go by.

use std::collections::{BTreeMap, BTreeSet};

use schemas::ids::{EventId, OrgId};
use schemas::records::{DedupKind, Event};

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

/// Decides over `events` (with their acceptance times, milliseconds) in their order; `known` is what holds their keys so far.
pub(crate) fn decide(events: &[(&Event, i64)], known: &BTreeMap<Key, Holder>) -> Decision {
    let mut decision = Decision::default();
    for (index, (event, accepted_at_ms)) in events.iter().enumerate() {
        let (Some(key), Some(dedup)) = (key_of(event), &event.dedup) else { continue };
        let holder = decision.holders.get(&key).or_else(|| known.get(&key));
        match holder {
            Some(holder) if holder.event_id == event.event_id => {}
            Some(holder) if holder.expires_at_ms > *accepted_at_ms => {
                // Twins with different bodies that raced on two instances: both were accepted, so both stay.
                if dedup.kind != DedupKind::IdempotencyKey || holder.body_hash == dedup.body_hash {
                    decision.duplicates.insert(index, holder.event_id);
                }
            }
            _ => {
                let expires_at_ms = accepted_at_ms.saturating_add(dedup.window_seconds.saturating_mul(1000));
                let holder =
                    Holder { event_id: event.event_id, body_hash: dedup.body_hash.clone(), accepted_at_ms: *accepted_at_ms, expires_at_ms };
                decision.holders.insert(key, holder);
            }
        }
    }
    decision
}

fn key_of(event: &Event) -> Option<Key> {
    let dedup = event.dedup.as_ref()?;
    Some((event.org_id, dedup.kind, dedup.key.clone()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use schemas::records::Dedup;

    use super::*;

    fn event(org: OrgId, dedup: Option<Dedup>) -> Event {
        Event {
            org_id: org,
            event_id: EventId::generate(),
            event_type: "t".to_owned(),
            payload: "1".to_owned(),
            occurred_at: None,
            source: None,
            ordering_key: None,
            metadata: BTreeMap::new(),
            dedup,
            traceparent: None,
        }
    }

    fn decide_at(events: &[Event], times: &[i64], known: &BTreeMap<Key, Holder>) -> Decision {
        let timed: Vec<(&Event, i64)> = events.iter().zip(times.iter().copied()).collect();
        decide(&timed, known)
    }

    #[test]
    fn the_first_one_is_the_original_until_its_window_ends() {
        let org = OrgId::generate();
        let events: Vec<Event> = (0..3).map(|_| event(org, Some(Dedup::dedup_id("k", b"body")))).collect();
        let window = 86_400_000;
        let decision = decide_at(&events, &[0, window - 1, window], &BTreeMap::new());
        assert_eq!(decision.duplicates, BTreeMap::from([(1, events[0].event_id)]));
        assert_eq!(decision.holders.values().next().unwrap().event_id, events[2].event_id, "the key was free again");
    }

    #[test]
    fn what_the_table_holds_goes_before_the_batch() {
        let org = OrgId::generate();
        let stored = event(org, Some(Dedup::dedup_id("k", b"body")));
        let known = decide_at(std::slice::from_ref(&stored), &[0], &BTreeMap::new()).holders;
        let later = [event(org, Some(Dedup::dedup_id("k", b"other")))];
        let decision = decide_at(&later, &[5], &known);
        assert_eq!(decision.duplicates, BTreeMap::from([(0, stored.event_id)]));
        assert!(decision.holders.is_empty());
    }

    #[test]
    fn twins_of_an_idempotency_key_with_other_bodies_both_stay() {
        let org = OrgId::generate();
        let events = [event(org, Some(Dedup::idempotency_key("k", b"one"))), event(org, Some(Dedup::idempotency_key("k", b"other")))];
        assert!(decide_at(&events, &[0, 1], &BTreeMap::new()).duplicates.is_empty());
    }

    #[test]
    fn organizations_and_namespaces_do_not_meet() {
        let (one, other) = (OrgId::generate(), OrgId::generate());
        let events = [
            event(one, Some(Dedup::dedup_id("k", b""))),
            event(other, Some(Dedup::dedup_id("k", b""))),
            event(one, Some(Dedup::idempotency_key("k", b""))),
            event(one, None),
            event(one, None),
        ];
        let decision = decide_at(&events, &[0; 5], &BTreeMap::new());
        assert!(decision.duplicates.is_empty());
        assert_eq!(decision.holders.len(), 3);
    }

    proptest! {
        #[test]
        fn deciding_in_one_batch_or_in_many_is_the_same(keys in prop::collection::vec(0_u8..4, 1..40), cut in 0_usize..40) {
            let org = OrgId::generate();
            let events: Vec<Event> = keys.iter().map(|k| event(org, Some(Dedup::dedup_id(k.to_string(), b"")))).collect();
            let times: Vec<i64> = (0..events.len() as i64).collect();
            let whole = decide_at(&events, &times, &BTreeMap::new());
            let cut = cut.min(events.len());
            let first = decide_at(&events[..cut], &times[..cut], &BTreeMap::new());
            let second = decide_at(&events[cut..], &times[cut..], &first.holders);
            let mut joined = first.duplicates;
            joined.extend(second.duplicates.into_iter().map(|(index, original)| (index + cut, original)));
            prop_assert_eq!(whole.duplicates, joined);
        }
    }
}
