//! What the receiver got against what the inbox lists: each event at each endpoint, signed, and repeated only where
//! that is allowed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::Violation;
use crate::faults::ledger::Shown;

/// What was answered so long before a fault may still be in hand when it strikes: answered, but not reported, or not
/// passed by the position.
const IN_HAND: Duration = Duration::from_secs(5);

/// One request that reached the receiver.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// Which endpoint it was for.
    pub endpoint: String,
    /// `webhook-id`; nil if it was none.
    pub id: Uuid,
    /// The event's id in the body; nil if there was none.
    pub event_id: Uuid,
    /// The tag in the event's payload, and the organization there; empty and nil if there were none.
    pub tag: String,
    /// See `tag`.
    pub owner: Uuid,
    /// Whether the signature verified.
    pub genuine: bool,
    /// Whether it was answered with success.
    pub answered: bool,
    /// When it was complete.
    pub at: Instant,
}

/// Whether an event may be delivered again although it was answered with success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeats {
    /// No: nothing of ours died, was halted, or lost a report or a lease.
    Never,
    /// Yes, for what was in hand around a fault: what was first answered shortly before it began, or between then and
    /// `until`.
    Around {
        /// When it began. Nothing is repeated before.
        began: Instant,
        /// What is first answered later has nothing to do with it.
        until: Instant,
    },
}

impl Repeats {
    /// Whether what was answered first at `first` may come again at `again`.
    fn allow(self, first: Instant, again: Instant) -> bool {
        matches!(self, Self::Around { began, .. } if again >= began) && self.was_in_hand(first)
    }

    /// Whether the answer that was given at `first` may have been lost.
    pub(super) fn was_in_hand(self, first: Instant) -> bool {
        matches!(self, Self::Around { began, until } if first + IN_HAND >= began && first <= until)
    }
}

/// One organization's endpoints. Returns what must not be, and how many deliveries were repeated.
pub fn delivered(
    endpoints: &[String],
    rows: &[Shown],
    receipts: &[Receipt],
    repeats: Repeats,
) -> (Vec<Violation>, usize) {
    let mut found = Vec::new();
    let mut repeated = 0;
    let listed: HashMap<Uuid, &Shown> = rows.iter().map(|row| (row.id, row)).collect();
    for endpoint in endpoints {
        // When each event was first answered.
        let mut answered: HashMap<Uuid, Instant> = HashMap::new();
        for receipt in receipts.iter().filter(|receipt| receipt.endpoint == *endpoint) {
            judge_one(receipt, &listed, &mut found);
            if !receipt.answered {
                continue;
            }
            let Some(first) = answered.get(&receipt.id).copied() else {
                answered.insert(receipt.id, receipt.at);
                continue;
            };
            repeated += 1;
            if !repeats.allow(first, receipt.at) {
                let told = format!("{endpoint} got {} again although it had answered with success", receipt.id);
                found.push(Violation::new("delivered-again", told));
            }
        }
        for row in rows.iter().filter(|row| !answered.contains_key(&row.id)) {
            found.push(Violation::new("not-delivered", format!("{endpoint} never got {} ({})", row.id, row.tag)));
        }
    }
    (found, repeated)
}

/// What came after the first `judged` receipts, when everything had been quiet: nothing may be repeated any more,
/// whatever happened before.
pub fn delivered_later(endpoints: &[String], rows: &[Shown], receipts: &[Receipt], judged: usize) -> Vec<Violation> {
    let known = receipts.get(..judged).unwrap_or(receipts);
    let (mut before, _) = delivered(endpoints, rows, known, Repeats::Never);
    let (mut found, _) = delivered(endpoints, rows, receipts, Repeats::Never);
    // Each of those that were there before is taken out once.
    found.retain(|violation| {
        let Some(place) = before.iter().position(|known| known == violation) else { return true };
        before.swap_remove(place);
        false
    });
    found
        .into_iter()
        .map(|violation| Violation::new("delivered-later", format!("{}: {}", violation.rule, violation.found)))
        .collect()
}

fn judge_one(receipt: &Receipt, listed: &HashMap<Uuid, &Shown>, found: &mut Vec<Violation>) {
    let Receipt { endpoint, id, event_id, tag, owner, .. } = receipt;
    if !receipt.genuine {
        found.push(Violation::new(
            "bad-signature",
            format!("{endpoint} got {id} with a signature that does not verify"),
        ));
    }
    if id != event_id {
        found.push(Violation::new(
            "webhook-id",
            format!("{endpoint} got the event {event_id} under the webhook-id {id}"),
        ));
    }
    match listed.get(id) {
        None => {
            let told = format!("{endpoint} got {id}, which its organization's inbox does not list");
            found.push(Violation::new("delivered-duplicate", told));
        }
        Some(row) if (&row.tag, &row.owner) != (tag, owner) => {
            let told = format!("{endpoint} got {tag} of {owner} as {id}, which is {} of {}", row.tag, row.owner);
            found.push(Violation::new("webhook-content", told));
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(n: u128, at: Instant) -> Receipt {
        let id = Uuid::from_u128(n);
        let (tag, owner) = ("a".to_owned(), Uuid::from_u128(7));
        Receipt { endpoint: "e".to_owned(), id, event_id: id, tag, owner, genuine: true, answered: true, at }
    }

    fn rules(receipts: &[Receipt], repeats: Repeats) -> Vec<String> {
        let owner = Uuid::from_u128(7);
        let rows = [Shown {
            id: Uuid::from_u128(1),
            tag: "a".to_owned(),
            owner,
            acknowledged: false,
            delivery_status: String::new(),
        }];
        delivered(&["e".to_owned()], &rows, receipts, repeats).0.into_iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn each_event_is_received_signed_and_not_again() {
        let now = Instant::now();
        let before = now.checked_sub(Duration::from_secs(1)).unwrap();
        let one = receipt(1, before);
        assert!(rules(std::slice::from_ref(&one), Repeats::Never).is_empty());
        assert_eq!(rules(&[], Repeats::Never), ["not-delivered"]);
        assert_eq!(rules(&[Receipt { answered: false, ..one.clone() }], Repeats::Never), ["not-delivered"]);
        assert_eq!(rules(&[one.clone(), receipt(1, now)], Repeats::Never), ["delivered-again"]);
        // An attempt that was not answered with success may be made again at any time.
        assert!(rules(&[Receipt { answered: false, ..one.clone() }, one.clone()], Repeats::Never).is_empty());
        assert_eq!(rules(&[Receipt { genuine: false, ..one.clone() }], Repeats::Never), ["bad-signature"]);
        assert_eq!(rules(&[one.clone(), receipt(2, now)], Repeats::Never), ["delivered-duplicate"]);
        assert_eq!(rules(&[Receipt { tag: "b".to_owned(), ..one.clone() }], Repeats::Never), ["webhook-content"]);
        assert_eq!(rules(&[Receipt { owner: Uuid::from_u128(8), ..one.clone() }], Repeats::Never), ["webhook-content"]);
        assert_eq!(rules(&[Receipt { event_id: Uuid::from_u128(3), ..one }], Repeats::Never), ["webhook-id"]);
    }
    #[test]
    fn only_what_was_in_hand_around_the_fault_comes_again() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let around = Repeats::Around { began: at(100), until: at(130) };
        let told = |first, again| rules(&[receipt(1, at(first)), receipt(1, at(again))], around);
        // However late the repeat is: a lease may have to end first.
        for (first, again) in [(95, 100), (99, 101), (100, 120), (130, 131), (110, 500)] {
            assert!(told(first, again).is_empty(), "{first} and {again}");
        }
        for (first, again) in [(94, 101), (96, 99), (131, 132)] {
            assert_eq!(told(first, again), ["delivered-again"], "{first} and {again}");
        }
    }
    #[test]
    fn later_nothing_comes_that_came_before() {
        let now = Instant::now();
        let rows = [1, 2].map(|n| Shown {
            id: Uuid::from_u128(n),
            tag: "a".to_owned(),
            owner: Uuid::from_u128(7),
            acknowledged: false,
            delivery_status: String::new(),
        });
        let later = |receipts: &[Receipt], judged| delivered_later(&["e".to_owned()], &rows, receipts, judged).len();
        let [one, two] = [receipt(1, now), receipt(2, now)];
        // What was wrong or repeated in the round was told of then.
        assert_eq!(later(&[one.clone(), one.clone()], 2), 0);
        assert_eq!(later(&[one.clone(), two.clone()], 2), 0);
        // The third time is not taken for the second one.
        assert_eq!(later(&[one.clone(), two.clone(), one.clone()], 2), 1);
        assert_eq!(later(&[one.clone(), one.clone(), one.clone()], 2), 1);
        // A first delivery that was late was missed in the round.
        assert_eq!(later(&[one.clone(), two], 1), 0);
        assert_eq!(later(&[one.clone(), Receipt { genuine: false, ..one }], 1), 2);
    }
}
