//! Compares the received webhooks with the inbox: each event reached each endpoint, signed, and was repeated only where
//! that is allowed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::violation::Violation;
use crate::ledger::ShownEvent;

/// A delivery that succeeded this long before a fault may still be in flight: its attempt is not reported, or the
/// stored position is not yet behind it.
const IN_FLIGHT: Duration = Duration::from_secs(5);

/// A request that reached the receiver.
#[derive(Debug, Clone)]
pub(crate) struct Receipt {
    /// Name of the endpoint.
    pub endpoint: String,
    /// The header `webhook-id`; nil if it is missing.
    pub id: Uuid,
    /// The event's id in the body; nil if it is missing.
    pub event_id: Uuid,
    /// The tag in the event's payload; empty if it is missing.
    pub tag: String,
    /// The organization in the event's payload; nil if it is missing.
    pub org: Uuid,
    /// Whether the signature is valid.
    pub signature_valid: bool,
    /// Whether the endpoint answered with success.
    pub succeeded: bool,
    /// When the request was complete.
    pub at: Instant,
}

/// Which deliveries may be repeated although the endpoint had answered with success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Redelivery {
    Never,
    /// Deliveries in flight around a fault: the first success came shortly before `started`, or from then until
    /// `until`.
    Around {
        /// Start of the fault. Nothing may be repeated before it.
        started: Instant,
        /// A delivery that first succeeds later must not be repeated.
        until: Instant,
    },
}

impl Redelivery {
    /// Whether a delivery that first succeeded at `first` may be repeated at `again`.
    fn allows(self, first: Instant, again: Instant) -> bool {
        matches!(self, Self::Around { started, .. } if again >= started) && self.was_in_flight(first)
    }

    /// Whether a success at `first` may have been lost.
    pub(super) fn was_in_flight(self, first: Instant) -> bool {
        matches!(self, Self::Around { started, until } if first + IN_FLIGHT >= started && first <= until)
    }
}

/// Checks the endpoints of one organization. Returns the violations and the number of repeated deliveries.
pub(crate) fn delivered(
    endpoints: &[String],
    rows: &[ShownEvent],
    receipts: &[Receipt],
    redelivery: Redelivery,
) -> (Vec<Violation>, usize) {
    let mut found = Vec::new();
    let mut repeated = 0;
    let listed: HashMap<Uuid, &ShownEvent> = rows.iter().map(|row| (row.id, row)).collect();
    for endpoint in endpoints {
        // When the delivery of each event first succeeded.
        let mut succeeded: HashMap<Uuid, Instant> = HashMap::new();
        for receipt in receipts.iter().filter(|receipt| receipt.endpoint == *endpoint) {
            check_receipt(receipt, &listed, &mut found);
            if !receipt.succeeded {
                continue;
            }
            let Some(first) = succeeded.get(&receipt.id).copied() else {
                succeeded.insert(receipt.id, receipt.at);
                continue;
            };
            repeated += 1;
            if !redelivery.allows(first, receipt.at) {
                let message = format!("{endpoint} got {} again although it had answered with success", receipt.id);
                found.push(Violation::new("delivered-again", message));
            }
        }
        for row in rows.iter().filter(|row| !succeeded.contains_key(&row.id)) {
            found.push(Violation::new("not-delivered", format!("{endpoint} never got {} ({})", row.id, row.tag)));
        }
    }
    (found, repeated)
}

/// Checks the receipts after the first `checked` ones. Their round was quiet before them, so nothing may be repeated,
/// whatever happened in the round.
pub(crate) fn delivered_later(
    endpoints: &[String],
    rows: &[ShownEvent],
    receipts: &[Receipt],
    checked: usize,
) -> Vec<Violation> {
    let in_round = receipts.get(..checked).unwrap_or(receipts);
    let (mut before, _) = delivered(endpoints, rows, in_round, Redelivery::Never);
    let (mut found, _) = delivered(endpoints, rows, receipts, Redelivery::Never);
    // Each violation that was of the round is removed once.
    found.retain(|violation| {
        let Some(index) = before.iter().position(|earlier| earlier == violation) else { return true };
        before.swap_remove(index);
        false
    });
    found
        .into_iter()
        .map(|violation| Violation::new("delivered-later", format!("{}: {}", violation.rule, violation.found)))
        .collect()
}

fn check_receipt(receipt: &Receipt, listed: &HashMap<Uuid, &ShownEvent>, found: &mut Vec<Violation>) {
    let Receipt { endpoint, id, event_id, tag, org, .. } = receipt;
    if !receipt.signature_valid {
        found.push(Violation::new("bad-signature", format!("{endpoint} got {id} with an invalid signature")));
    }
    if id != event_id {
        found.push(Violation::new(
            "webhook-id",
            format!("{endpoint} got the event {event_id} under the webhook-id {id}"),
        ));
    }
    match listed.get(id) {
        None => {
            let message = format!("{endpoint} got {id}, which the inbox of its organization does not list");
            found.push(Violation::new("delivered-duplicate", message));
        }
        Some(row) if (&row.tag, &row.org) != (tag, org) => {
            let message = format!("{endpoint} got {tag} of {org} as {id}, which is {} of {}", row.tag, row.org);
            found.push(Violation::new("webhook-content", message));
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(n: u128, at: Instant) -> Receipt {
        let id = Uuid::from_u128(n);
        let (tag, org) = ("a".to_owned(), Uuid::from_u128(7));
        Receipt { endpoint: "e".to_owned(), id, event_id: id, tag, org, signature_valid: true, succeeded: true, at }
    }

    fn rules(receipts: &[Receipt], redelivery: Redelivery) -> Vec<String> {
        let org = Uuid::from_u128(7);
        let rows = [ShownEvent {
            id: Uuid::from_u128(1),
            tag: "a".to_owned(),
            org,
            acknowledged: false,
            delivery_status: String::new(),
        }];
        delivered(&["e".to_owned()], &rows, receipts, redelivery)
            .0
            .into_iter()
            .map(|violation| violation.rule)
            .collect()
    }

    #[test]
    fn each_event_is_delivered_once_and_signed() {
        let now = Instant::now();
        let before = now.checked_sub(Duration::from_secs(1)).unwrap();
        let one = receipt(1, before);
        assert!(rules(std::slice::from_ref(&one), Redelivery::Never).is_empty());
        assert_eq!(rules(&[], Redelivery::Never), ["not-delivered"]);
        assert_eq!(rules(&[Receipt { succeeded: false, ..one.clone() }], Redelivery::Never), ["not-delivered"]);
        assert_eq!(rules(&[one.clone(), receipt(1, now)], Redelivery::Never), ["delivered-again"]);
        // A failed attempt may be repeated at any time.
        assert!(rules(&[Receipt { succeeded: false, ..one.clone() }, one.clone()], Redelivery::Never).is_empty());
        assert_eq!(rules(&[Receipt { signature_valid: false, ..one.clone() }], Redelivery::Never), ["bad-signature"]);
        assert_eq!(rules(&[one.clone(), receipt(2, now)], Redelivery::Never), ["delivered-duplicate"]);
        assert_eq!(rules(&[Receipt { tag: "b".to_owned(), ..one.clone() }], Redelivery::Never), ["webhook-content"]);
        assert_eq!(
            rules(&[Receipt { org: Uuid::from_u128(8), ..one.clone() }], Redelivery::Never),
            ["webhook-content"]
        );
        assert_eq!(rules(&[Receipt { event_id: Uuid::from_u128(3), ..one }], Redelivery::Never), ["webhook-id"]);
    }

    #[test]
    fn only_deliveries_in_flight_around_a_fault_may_repeat() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let around = Redelivery::Around { started: at(100), until: at(130) };
        let found = |first, again| rules(&[receipt(1, at(first)), receipt(1, at(again))], around);
        // The repetition may come late: a lease may have to expire first.
        for (first, again) in [(95, 100), (99, 101), (100, 120), (130, 131), (110, 500)] {
            assert!(found(first, again).is_empty(), "{first} and {again}");
        }
        for (first, again) in [(94, 101), (96, 99), (131, 132)] {
            assert_eq!(found(first, again), ["delivered-again"], "{first} and {again}");
        }
    }

    #[test]
    fn after_its_round_no_delivery_is_repeated() {
        let now = Instant::now();
        let rows = [1, 2].map(|n| ShownEvent {
            id: Uuid::from_u128(n),
            tag: "a".to_owned(),
            org: Uuid::from_u128(7),
            acknowledged: false,
            delivery_status: String::new(),
        });
        let later = |receipts: &[Receipt], checked| delivered_later(&["e".to_owned()], &rows, receipts, checked).len();
        let [one, two] = [receipt(1, now), receipt(2, now)];
        // Violations and repetitions of the round were reported with it.
        assert_eq!(later(&[one.clone(), one.clone()], 2), 0);
        assert_eq!(later(&[one.clone(), two.clone()], 2), 0);
        // The third delivery is not mistaken for the second one.
        assert_eq!(later(&[one.clone(), two.clone(), one.clone()], 2), 1);
        assert_eq!(later(&[one.clone(), one.clone(), one.clone()], 2), 1);
        // A late first delivery was reported as missing in its round.
        assert_eq!(later(&[one.clone(), two], 1), 0);
        assert_eq!(later(&[one.clone(), Receipt { signature_valid: false, ..one }], 1), 2);
    }
}
