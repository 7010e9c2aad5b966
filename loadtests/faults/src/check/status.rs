//! Compares the delivery status in the inbox with the answers of the receiver.

use std::collections::HashMap;
use std::time::Instant;

use uuid::Uuid;

use super::delivered::{Receipt, Redelivery};
use super::violation::Violation;
use crate::ledger::ShownEvent;

/// Checks one organization when all its deliveries are finished: an event that all endpoints took is `delivered`.
///
/// A delivery in flight when a dispatcher was hit is repeated, or cancelled if the event was acknowledged meanwhile. A
/// cancelled delivery does not count, so such an event may be `pending`.
pub(crate) fn status(
    endpoints: &[String],
    rows: &[ShownEvent],
    receipts: &[Receipt],
    redelivery: Redelivery,
) -> Vec<Violation> {
    if endpoints.is_empty() {
        return Vec::new();
    }
    let mut succeeded: HashMap<(&str, Uuid), Instant> = HashMap::new();
    for receipt in receipts.iter().filter(|receipt| receipt.succeeded) {
        succeeded.entry((&receipt.endpoint, receipt.id)).or_insert(receipt.at);
    }
    let mut found = Vec::new();
    for row in rows {
        let taken: Option<Vec<Instant>> =
            endpoints.iter().map(|endpoint| succeeded.get(&(endpoint.as_str(), row.id)).copied()).collect();
        let Some(taken) = taken else { continue };
        let may_be_cancelled = row.acknowledged && taken.into_iter().any(|first| redelivery.was_in_flight(first));
        if row.delivery_status != "delivered" && !(may_be_cancelled && row.delivery_status == "pending") {
            found.push(Violation::new(
                "status",
                format!("all endpoints took {}, and its status is {}", row.id, row.delivery_status),
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_all_endpoints_took_is_delivered() {
        let (org, endpoints, now) = (Uuid::from_u128(7), ["e".to_owned(), "f".to_owned()], Instant::now());
        let taken = |endpoint: &str, n: u128| {
            let (id, tag) = (Uuid::from_u128(n), "a".to_owned());
            Receipt {
                endpoint: endpoint.to_owned(),
                id,
                event_id: id,
                tag,
                org,
                signature_valid: true,
                succeeded: true,
                at: now,
            }
        };
        let receipts = [taken("e", 1), taken("f", 1), taken("e", 2)];
        let found = |n: u128, delivery_status: &str, acknowledged, redelivery| {
            let delivery_status = delivery_status.to_owned();
            let row = ShownEvent { id: Uuid::from_u128(n), tag: "a".to_owned(), org, acknowledged, delivery_status };
            status(&endpoints, &[row], &receipts, redelivery).len()
        };
        let around = Redelivery::Around { started: now, until: now };
        for redelivery in [Redelivery::Never, around] {
            assert_eq!((found(1, "delivered", false, redelivery), found(1, "delivered", true, redelivery)), (0, 0));
            for wrong in ["pending", "retrying", "failed"] {
                assert_eq!(found(1, wrong, false, redelivery), 1, "{wrong}");
                assert_eq!(
                    found(1, wrong, true, redelivery),
                    usize::from(wrong != "pending" || redelivery == Redelivery::Never),
                    "{wrong}"
                );
                assert_eq!(found(2, wrong, false, redelivery), 0, "the second endpoint did not take it");
            }
        }
    }
}
