//! Whether the inbox holds what was accepted: every id once, nothing else, in an order that contradicts nobody's
//! experience. Pure.
//!
//! What does not live here: reading the inbox (inbox).

use std::collections::HashMap;

use serde::Serialize;
use uuid::Uuid;

use crate::recorder::Accepted;

/// How many ids a report names as examples.
const EXAMPLES: usize = 5;

/// One event as the inbox showed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Its id.
    pub id: Uuid,
    /// Its acceptance time, milliseconds since the Unix epoch.
    pub accepted_ms: i64,
}

/// What was found, over one organization or all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Events the system said it accepted.
    pub accepted: u64,
    /// Of them, shown at least once.
    pub stored: u64,
    /// Of them, not shown.
    pub missing: u64,
    /// Showings beyond the first of an id.
    pub duplicates: u64,
    /// Ids that the system never reported as accepted to us.
    pub unexpected: u64,
    /// The same id reported for two requests.
    pub reported_twice: u64,
    /// Events shown before one that was answered before they were sent, or with a smaller acceptance time than the
    /// event before.
    pub misordered: u64,
    /// Some ids that are missing, shown twice or misordered.
    pub examples: Vec<String>,
}

impl Findings {
    /// Adds another organization's findings.
    pub fn add(&mut self, other: &Self) {
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

    /// Whether everything is as promised. `allowed_unexpected`: requests that were not accepted but may be stored.
    pub fn sound(&self, allowed_unexpected: Option<u64>) -> bool {
        let explained = allowed_unexpected.is_none_or(|allowed| self.unexpected <= allowed);
        self.missing == 0 && self.duplicates == 0 && self.reported_twice == 0 && self.misordered == 0 && explained
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(text());
        }
    }
}

/// Compares one organization's accepted events with what its inbox showed, in the order shown.
pub fn compare(accepted: &[Accepted], shown: &[Shown]) -> Findings {
    let mut findings = Findings { accepted: accepted.len() as u64, ..Findings::default() };
    let mut by_id: HashMap<Uuid, (&Accepted, bool)> = HashMap::with_capacity(accepted.len());
    for event in accepted {
        if by_id.insert(event.id, (event, false)).is_some() {
            findings.reported_twice += 1;
            findings.example(|| format!("{} reported twice", event.id));
        }
    }
    let mut seen = Vec::with_capacity(shown.len());
    let mut unknown: HashMap<Uuid, ()> = HashMap::new();
    for event in shown {
        match by_id.get_mut(&event.id) {
            Some((_, true)) => {
                findings.duplicates += 1;
                findings.example(|| format!("{} shown twice", event.id));
            }
            Some((ours, shown)) => {
                *shown = true;
                findings.stored += 1;
                seen.push(**ours);
            }
            None if unknown.insert(event.id, ()).is_none() => findings.unexpected += 1,
            None => {
                findings.duplicates += 1;
                findings.example(|| format!("{} shown twice", event.id));
            }
        }
    }
    for (event, shown) in by_id.values() {
        if !shown {
            findings.missing += 1;
            findings.example(|| format!("{} missing", event.id));
        }
    }
    check_order(&seen, shown, &mut findings);
    findings
}

/// Within an organization the inbox shows the log's order. Two things follow: acceptance times never fall, and an event
/// whose reply was there before another was sent comes before it.
fn check_order(seen: &[Accepted], shown: &[Shown], findings: &mut Findings) {
    for pair in shown.windows(2) {
        if let [before, after] = pair
            && after.accepted_ms < before.accepted_ms
        {
            findings.misordered += 1;
            findings.example(|| format!("{} has an earlier acceptance time than the event shown before it", after.id));
        }
    }
    let mut earliest_reply_behind = u32::MAX;
    for event in seen.iter().rev() {
        if earliest_reply_behind < event.sent_us {
            findings.misordered += 1;
            findings.example(|| format!("{} is shown before an event that was answered before it was sent", event.id));
        }
        earliest_reply_behind = earliest_reply_behind.min(event.done_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Event `n` is sent at `n` milliseconds and answered half a millisecond later.
    fn accepted(n: u32) -> Accepted {
        Accepted { id: Uuid::from_u128(u128::from(n)), organization: 0, sent_us: n * 1_000, done_us: n * 1_000 + 500 }
    }

    fn shown(n: u32) -> Shown {
        Shown { id: Uuid::from_u128(u128::from(n)), accepted_ms: i64::from(n) }
    }

    fn found(accepted_numbers: &[u32], shown_numbers: &[u32]) -> Findings {
        let accepted: Vec<_> = accepted_numbers.iter().map(|n| accepted(*n)).collect();
        let shown: Vec<_> = shown_numbers.iter().map(|n| shown(*n)).collect();
        compare(&accepted, &shown)
    }

    #[test]
    fn the_same_ids_in_the_same_order_are_sound() {
        let findings = found(&[1, 2, 3], &[1, 2, 3]);
        assert!(findings.sound(Some(0)), "{findings:?}");
        assert_eq!((findings.accepted, findings.stored), (3, 3));
        assert!(found(&[], &[]).sound(Some(0)));
    }

    #[test]
    fn a_missing_event_is_found() {
        let findings = found(&[1, 2, 3], &[1, 3]);
        assert_eq!((findings.missing, findings.stored), (1, 2));
        assert!(!findings.sound(None));
        assert!(findings.examples[0].contains("missing"));
    }

    #[test]
    fn an_event_shown_twice_is_found_ours_or_not() {
        assert_eq!(found(&[1, 2], &[1, 2, 2]).duplicates, 1);
        let foreign = found(&[1], &[1, 9, 9]);
        assert_eq!((foreign.duplicates, foreign.unexpected), (1, 1));
        assert!(!foreign.sound(None));
    }

    #[test]
    fn one_id_for_two_requests_is_found() {
        let findings = found(&[1, 1], &[1]);
        assert_eq!(findings.reported_twice, 1);
        assert!(!findings.sound(None));
    }

    #[test]
    fn more_events_than_unanswered_requests_explain_are_found() {
        let findings = found(&[1], &[1, 7, 8]);
        assert_eq!(findings.unexpected, 2);
        assert!(findings.sound(Some(2)));
        assert!(!findings.sound(Some(1)));
        assert!(findings.sound(None), "others may send for this organization");
    }

    #[test]
    fn an_event_shown_before_one_that_was_answered_before_it_was_sent_is_misordered() {
        // Acceptance times alone would not show it: the log gave both the same millisecond.
        let shown: Vec<_> = [2, 1].iter().map(|n| Shown { accepted_ms: 5, ..shown(*n) }).collect();
        let findings = compare(&[accepted(1), accepted(2)], &shown);
        assert_eq!(findings.misordered, 1);
        assert!(!findings.sound(None));
        // Two that were in flight together may come in either order.
        let both = [accepted(1), Accepted { sent_us: 1_200, ..accepted(2) }];
        assert_eq!(compare(&both, &shown).misordered, 0);
    }

    #[test]
    fn acceptance_times_that_fall_are_misordered() {
        let shown = [Shown { accepted_ms: 10, ..shown(1) }, Shown { accepted_ms: 9, ..shown(2) }];
        assert_eq!(compare(&[accepted(1), accepted(2)], &shown).misordered, 1);
    }

    #[test]
    fn findings_add_up() {
        let mut all = found(&[1, 2], &[1]);
        all.add(&found(&[3], &[3, 3]));
        assert_eq!((all.accepted, all.stored, all.missing, all.duplicates, all.examples.len()), (3, 2, 1, 1, 2));
    }
}
