//! Checks that the inbox has each accepted id once, nothing else, and in an order that agrees with requests and
//! replies. Pure.
//!
//! The inbox is read in `inbox_reader`.

use std::collections::HashMap;

use serde::Serialize;
use uuid::Uuid;

use crate::recorder::AcceptedEvent;

/// Maximum number of examples in a report.
const MAX_EXAMPLES: usize = 5;

/// An event in the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InboxEntry {
    pub id: Uuid,
    /// Its acceptance time, milliseconds since the Unix epoch.
    pub accepted_ms: i64,
}

/// The result, for one organization or all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct InboxCheck {
    pub accepted: u64,
    /// Accepted events that are shown at least once.
    pub stored: u64,
    /// Accepted events that are not shown.
    pub missing: u64,
    /// Repetitions of an id in the inbox.
    pub duplicates: u64,
    /// Ids in the inbox that were never reported as accepted.
    pub unexpected: u64,
    /// Ids that were reported for two requests.
    pub reported_twice: u64,
    /// Events that are shown before one that was answered before they were sent, or that have an earlier acceptance
    /// time than the event before.
    pub misordered: u64,
    /// Some ids that are missing, shown twice or misordered.
    pub examples: Vec<String>,
}

impl InboxCheck {
    /// Adds the result of another organization.
    pub(crate) fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.stored += other.stored;
        self.missing += other.missing;
        self.duplicates += other.duplicates;
        self.unexpected += other.unexpected;
        self.reported_twice += other.reported_twice;
        self.misordered += other.misordered;
        for example in &other.examples {
            self.example(|| example.clone());
        }
    }

    /// Whether the guarantees hold. `allowed_unexpected`: number of requests that were not accepted but may be stored.
    pub(crate) fn passed(&self, allowed_unexpected: Option<u64>) -> bool {
        let explained = allowed_unexpected.is_none_or(|allowed| self.unexpected <= allowed);
        self.missing == 0 && self.duplicates == 0 && self.reported_twice == 0 && self.misordered == 0 && explained
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(text());
        }
    }
}

/// Compares the accepted events of one organization with its inbox, in the order of the inbox.
pub(crate) fn compare(accepted: &[AcceptedEvent], shown: &[InboxEntry]) -> InboxCheck {
    let mut result = InboxCheck { accepted: accepted.len() as u64, ..InboxCheck::default() };
    let mut by_id: HashMap<Uuid, (&AcceptedEvent, bool)> = HashMap::with_capacity(accepted.len());
    for event in accepted {
        if by_id.insert(event.id, (event, false)).is_some() {
            result.reported_twice += 1;
            result.example(|| format!("{} reported twice", event.id));
        }
    }
    let mut seen = Vec::with_capacity(shown.len());
    let mut unknown: HashMap<Uuid, ()> = HashMap::new();
    for event in shown {
        match by_id.get_mut(&event.id) {
            Some((_, true)) => {
                result.duplicates += 1;
                result.example(|| format!("{} shown twice", event.id));
            }
            Some((event, shown)) => {
                *shown = true;
                result.stored += 1;
                seen.push(**event);
            }
            None if unknown.insert(event.id, ()).is_none() => result.unexpected += 1,
            None => {
                result.duplicates += 1;
                result.example(|| format!("{} shown twice", event.id));
            }
        }
    }
    for (event, shown) in by_id.values() {
        if !shown {
            result.missing += 1;
            result.example(|| format!("{} missing", event.id));
        }
    }
    check_order(&seen, shown, &mut result);
    result
}

/// The inbox shows the order of the log. So acceptance times never decrease, and an event that was answered before
/// another one was sent comes before it.
fn check_order(seen: &[AcceptedEvent], shown: &[InboxEntry], result: &mut InboxCheck) {
    for pair in shown.windows(2) {
        if let [before, after] = pair
            && after.accepted_ms < before.accepted_ms
        {
            result.misordered += 1;
            result.example(|| format!("{} has an earlier acceptance time than the event shown before it", after.id));
        }
    }
    let mut earliest_reply_behind = u32::MAX;
    for event in seen.iter().rev() {
        if earliest_reply_behind < event.sent_us {
            result.misordered += 1;
            result.example(|| format!("{} is shown before an event that was answered before it was sent", event.id));
        }
        earliest_reply_behind = earliest_reply_behind.min(event.done_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Event `n` is sent at `n` milliseconds and answered half a millisecond later.
    fn accepted(n: u32) -> AcceptedEvent {
        AcceptedEvent {
            id: Uuid::from_u128(u128::from(n)),
            organization: 0,
            sent_us: n * 1_000,
            done_us: n * 1_000 + 500,
        }
    }

    fn shown(n: u32) -> InboxEntry {
        InboxEntry { id: Uuid::from_u128(u128::from(n)), accepted_ms: i64::from(n) }
    }

    fn found(accepted_numbers: &[u32], shown_numbers: &[u32]) -> InboxCheck {
        let accepted: Vec<_> = accepted_numbers.iter().map(|n| accepted(*n)).collect();
        let shown: Vec<_> = shown_numbers.iter().map(|n| shown(*n)).collect();
        compare(&accepted, &shown)
    }

    #[test]
    fn the_same_ids_in_the_same_order_pass() {
        let result = found(&[1, 2, 3], &[1, 2, 3]);
        assert!(result.passed(Some(0)), "{result:?}");
        assert_eq!((result.accepted, result.stored), (3, 3));
        assert!(found(&[], &[]).passed(Some(0)));
    }

    #[test]
    fn a_missing_event_is_found() {
        let result = found(&[1, 2, 3], &[1, 3]);
        assert_eq!((result.missing, result.stored), (1, 2));
        assert!(!result.passed(None));
        assert!(result.examples[0].contains("missing"));
    }

    #[test]
    fn any_event_that_is_shown_twice_is_found() {
        assert_eq!(found(&[1, 2], &[1, 2, 2]).duplicates, 1);
        let foreign = found(&[1], &[1, 9, 9]);
        assert_eq!((foreign.duplicates, foreign.unexpected), (1, 1));
        assert!(!foreign.passed(None));
    }

    #[test]
    fn one_id_for_two_requests_is_found() {
        let result = found(&[1, 1], &[1]);
        assert_eq!(result.reported_twice, 1);
        assert!(!result.passed(None));
    }

    #[test]
    fn more_events_than_unknown_outcomes_are_found() {
        let result = found(&[1], &[1, 7, 8]);
        assert_eq!(result.unexpected, 2);
        assert!(result.passed(Some(2)));
        assert!(!result.passed(Some(1)));
        assert!(result.passed(None), "others may send for this organization");
    }

    #[test]
    fn an_event_before_one_that_was_answered_first_is_found() {
        // Acceptance times alone do not show it: both have the same millisecond.
        let shown: Vec<_> = [2, 1].iter().map(|n| InboxEntry { accepted_ms: 5, ..shown(*n) }).collect();
        let result = compare(&[accepted(1), accepted(2)], &shown);
        assert_eq!(result.misordered, 1);
        assert!(!result.passed(None));
        // Two that were in flight together may come in either order.
        let both = [accepted(1), AcceptedEvent { sent_us: 1_200, ..accepted(2) }];
        assert_eq!(compare(&both, &shown).misordered, 0);
    }

    #[test]
    fn acceptance_times_that_decrease_are_found() {
        let shown = [InboxEntry { accepted_ms: 10, ..shown(1) }, InboxEntry { accepted_ms: 9, ..shown(2) }];
        assert_eq!(compare(&[accepted(1), accepted(2)], &shown).misordered, 1);
    }

    #[test]
    fn results_add_up() {
        let mut all = found(&[1, 2], &[1]);
        all.add(&found(&[3], &[3, 3]));
        assert_eq!((all.accepted, all.stored, all.missing, all.duplicates, all.examples.len()), (3, 2, 1, 1, 2));
    }
}
