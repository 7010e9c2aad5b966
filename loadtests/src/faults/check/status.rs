//! What the inbox says of deliveries against what the receiver answered.

use std::collections::HashMap;
use std::time::Instant;

use uuid::Uuid;

use super::{Receipt, Repeats, Violation};
use crate::faults::ledger::Shown;

/// One organization, when no delivery is open any more: an event that all its endpoints took reads `delivered`. What
/// was in hand when a dispatcher was struck is made again, or cancelled where the event was acknowledged meanwhile,
/// which counts for nothing: such a one may read `pending`.
pub fn status(endpoints: &[String], rows: &[Shown], receipts: &[Receipt], repeats: Repeats) -> Vec<Violation> {
    if endpoints.is_empty() {
        return Vec::new();
    }
    let mut answered: HashMap<(&str, Uuid), Instant> = HashMap::new();
    for receipt in receipts.iter().filter(|receipt| receipt.answered) {
        answered.entry((&receipt.endpoint, receipt.id)).or_insert(receipt.at);
    }
    let mut found = Vec::new();
    for row in rows {
        let taken: Option<Vec<Instant>> =
            endpoints.iter().map(|endpoint| answered.get(&(endpoint.as_str(), row.id)).copied()).collect();
        let Some(taken) = taken else { continue };
        let may_be_cancelled = row.acknowledged && taken.into_iter().any(|first| repeats.was_in_hand(first));
        if row.delivery_status != "delivered" && !(may_be_cancelled && row.delivery_status == "pending") {
            found.push(Violation::new(
                "status",
                format!("all endpoints took {}, which reads {}", row.id, row.delivery_status),
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_endpoints_took_reads_delivered_and_nothing_is_asked_of_the_rest() {
        let (owner, endpoints, now) = (Uuid::from_u128(7), ["e".to_owned(), "f".to_owned()], Instant::now());
        let taken = |endpoint: &str, n: u128| {
            let (id, tag) = (Uuid::from_u128(n), "a".to_owned());
            Receipt {
                endpoint: endpoint.to_owned(),
                id,
                event_id: id,
                tag,
                owner,
                genuine: true,
                answered: true,
                at: now,
            }
        };
        let receipts = [taken("e", 1), taken("f", 1), taken("e", 2)];
        let told = |n: u128, delivery_status: &str, acknowledged, repeats| {
            let delivery_status = delivery_status.to_owned();
            let row = Shown { id: Uuid::from_u128(n), tag: "a".to_owned(), owner, acknowledged, delivery_status };
            status(&endpoints, &[row], &receipts, repeats).len()
        };
        let struck = Repeats::Around { began: now, until: now };
        for repeats in [Repeats::Never, struck] {
            assert_eq!((told(1, "delivered", false, repeats), told(1, "delivered", true, repeats)), (0, 0));
            for wrong in ["pending", "retrying", "failed"] {
                assert_eq!(told(1, wrong, false, repeats), 1, "{wrong}");
                assert_eq!(
                    told(1, wrong, true, repeats),
                    usize::from(wrong != "pending" || repeats == Repeats::Never),
                    "{wrong}"
                );
                assert_eq!(told(2, wrong, false, repeats), 0, "the second endpoint did not take it");
            }
        }
    }
}
