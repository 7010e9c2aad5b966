//! What the inbox says of deliveries against what the receiver answered.

use std::collections::HashSet;

use uuid::Uuid;

use super::{Receipt, Violation};
use crate::faults::ledger::Shown;

/// One organization, when no delivery is open any more: an event that all its endpoints took reads `delivered`. Of one that was acknowledged, a
/// delivery may have been cancelled whose answer was lost with its dispatcher, and that counts for nothing; it is neither retried nor failed.
pub fn status(endpoints: &[String], rows: &[Shown], receipts: &[Receipt]) -> Vec<Violation> {
    if endpoints.is_empty() {
        return Vec::new();
    }
    let answered: HashSet<(&str, Uuid)> =
        receipts.iter().filter(|receipt| receipt.answered).map(|receipt| (receipt.endpoint.as_str(), receipt.id)).collect();
    let was_taken = |row: &&Shown| endpoints.iter().all(|endpoint| answered.contains(&(endpoint.as_str(), row.id)));
    let is_right = |row: &Shown| row.delivery_status == "delivered" || (row.acknowledged && row.delivery_status == "pending");
    let wrong = rows.iter().filter(was_taken).filter(|row| !is_right(row));
    let told = |row: &Shown| format!("all endpoints took {}, which reads {}", row.id, row.delivery_status);
    wrong.map(|row| Violation::new("status", told(row))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_all_endpoints_took_reads_delivered_and_nothing_is_asked_of_the_rest() {
        let (owner, endpoints) = (Uuid::from_u128(7), ["e".to_owned(), "f".to_owned()]);
        let taken = |endpoint: &str, n: u128| {
            let (id, tag) = (Uuid::from_u128(n), "a".to_owned());
            Receipt { endpoint: endpoint.to_owned(), id, event_id: id, tag, owner, genuine: true, answered: true, at: Instant::now() }
        };
        let receipts = [taken("e", 1), taken("f", 1), taken("e", 2)];
        let told = |n: u128, delivery_status: &str, acknowledged| {
            let delivery_status = delivery_status.to_owned();
            let row = Shown { id: Uuid::from_u128(n), tag: "a".to_owned(), owner, acknowledged, delivery_status };
            status(&endpoints, &[row], &receipts).len()
        };
        assert_eq!((told(1, "delivered", false), told(1, "delivered", true)), (0, 0));
        for wrong in ["pending", "retrying", "failed"] {
            assert_eq!(told(1, wrong, false), 1, "{wrong}");
            assert_eq!(told(1, wrong, true), usize::from(wrong != "pending"), "{wrong}");
            assert_eq!(told(2, wrong, false), 0, "the second endpoint did not take it");
        }
    }
}
