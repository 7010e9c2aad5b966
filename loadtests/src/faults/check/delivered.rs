//! What the receiver got against what the inbox lists: each event at each endpoint, signed, and repeated only where that is allowed.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use uuid::Uuid;

use super::Violation;
use crate::faults::ledger::Shown;

/// One request that reached the receiver.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// Which endpoint it was for.
    pub endpoint: String,
    /// `webhook-id`; nil if it was none.
    pub id: Uuid,
    /// The event's id in the body; nil if there was none.
    pub event_id: Uuid,
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
    /// Yes, from this moment on.
    Since(Instant),
}

/// One organization's endpoints. Returns what must not be, and how many deliveries were repeated.
pub fn delivered(endpoints: &[String], rows: &[Shown], receipts: &[Receipt], repeats: Repeats) -> (Vec<Violation>, usize) {
    let mut found = Vec::new();
    let mut repeated = 0;
    let listed: HashSet<Uuid> = rows.iter().map(|row| row.id).collect();
    for endpoint in endpoints {
        let mut answered: HashMap<Uuid, usize> = HashMap::new();
        for receipt in receipts.iter().filter(|receipt| receipt.endpoint == *endpoint) {
            judge_one(receipt, &listed, &mut found);
            if !receipt.answered {
                continue;
            }
            let times = answered.entry(receipt.id).or_default();
            *times += 1;
            if *times > 1 {
                repeated += 1;
                let allowed = matches!(repeats, Repeats::Since(from) if receipt.at >= from);
                if !allowed {
                    let told = format!("{endpoint} got {} again although it had answered with success", receipt.id);
                    found.push(Violation::new("delivered-again", told));
                }
            }
        }
        for row in rows.iter().filter(|row| !answered.contains_key(&row.id)) {
            found.push(Violation::new("not-delivered", format!("{endpoint} never got {} ({})", row.id, row.tag)));
        }
    }
    (found, repeated)
}

fn judge_one(receipt: &Receipt, listed: &HashSet<Uuid>, found: &mut Vec<Violation>) {
    let Receipt { endpoint, id, event_id, .. } = receipt;
    if !receipt.genuine {
        found.push(Violation::new("bad-signature", format!("{endpoint} got {id} with a signature that does not verify")));
    }
    if id != event_id {
        found.push(Violation::new("webhook-id", format!("{endpoint} got the event {event_id} under the webhook-id {id}")));
    }
    if !listed.contains(id) {
        found.push(Violation::new("delivered-duplicate", format!("{endpoint} got {id}, which its organization's inbox does not list")));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn receipt(n: u128, at: Instant) -> Receipt {
        let id = Uuid::from_u128(n);
        Receipt { endpoint: "e".to_owned(), id, event_id: id, genuine: true, answered: true, at }
    }

    fn rules(receipts: &[Receipt], repeats: Repeats) -> Vec<String> {
        let owner = Uuid::from_u128(7);
        let rows = [Shown { id: Uuid::from_u128(1), tag: "a".to_owned(), owner, acknowledged: false }];
        delivered(&["e".to_owned()], &rows, receipts, repeats).0.into_iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn each_event_is_received_signed_and_again_only_from_the_fault_on() {
        let now = Instant::now();
        let before = now.checked_sub(Duration::from_secs(1)).unwrap();
        let one = receipt(1, before);
        assert!(rules(std::slice::from_ref(&one), Repeats::Never).is_empty());
        assert_eq!(rules(&[], Repeats::Never), ["not-delivered"]);
        assert_eq!(rules(&[Receipt { answered: false, ..one.clone() }], Repeats::Never), ["not-delivered"]);
        assert_eq!(rules(&[one.clone(), receipt(1, now)], Repeats::Never), ["delivered-again"]);
        assert!(rules(&[one.clone(), receipt(1, now)], Repeats::Since(now)).is_empty());
        assert_eq!(rules(&[one.clone(), receipt(1, before)], Repeats::Since(now)), ["delivered-again"]);
        // An attempt that was not answered with success may be made again at any time.
        assert!(rules(&[Receipt { answered: false, ..one.clone() }, one.clone()], Repeats::Never).is_empty());
        assert_eq!(rules(&[Receipt { genuine: false, ..one.clone() }], Repeats::Never), ["bad-signature"]);
        assert_eq!(rules(&[one.clone(), receipt(2, now)], Repeats::Never), ["delivered-duplicate"]);
        assert_eq!(rules(&[Receipt { event_id: Uuid::from_u128(3), ..one }], Repeats::Never), ["webhook-id"]);
    }
}
