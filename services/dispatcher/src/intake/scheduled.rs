//! Records whose deliveries have rows already when a partition is assigned. Pure.

use std::collections::HashSet;

use schemas::ids::DeliveryId;

use crate::delivery::Delivery;

/// Deliveries ahead of the position that were scheduled before the assignment: they are not started again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scheduled {
    /// (offset, delivery). Another record may have the same event id, and be the one that is sent.
    records: HashSet<(i64, DeliveryId)>,
    /// Rows of an older log epoch that answer for every record of their event.
    at_any_offset: HashSet<DeliveryId>,
}

impl Scheduled {
    /// Adds a row that answers for the record at `offset`, or for every record of its event.
    pub(crate) fn add(&mut self, delivery: DeliveryId, offset: Option<i64>) {
        match offset {
            Some(offset) => drop(self.records.insert((offset, delivery))),
            None => drop(self.at_any_offset.insert(delivery)),
        }
    }

    /// Whether a row answers for this delivery of this record. A record is read once, so its row is forgotten.
    pub(super) fn take(&mut self, delivery: &Delivery) -> bool {
        self.records.remove(&(delivery.event.offset, delivery.id)) || self.at_any_offset.contains(&delivery.id)
    }
}
