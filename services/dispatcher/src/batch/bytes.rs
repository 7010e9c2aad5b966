//! Bytes of batches in flight: a bound for the process and one for each organization. A webhook that is no batch is not
//! counted: one event is small, and the slots bound how many there are.

use std::sync::Arc;

use runtime::budget::{Budget, KeyedShares, Permit};
use schemas::ids::OrgId;

/// The part of all bytes that one organization may have.
const ORG_PART: u64 = 4;
/// What an event in flight costs besides its body.
const EVENT_BYTES: usize = 512;

/// Bytes of all batches of this instance. Cloning shares them.
#[derive(Clone)]
pub(crate) struct BatchBytes(Arc<KeyedShares<OrgId>>);

impl BatchBytes {
    pub(crate) fn new(max_bytes: u64) -> Self {
        Self(Arc::new(KeyedShares::new(Budget::new("webhook_batch_bytes", max_bytes, max_bytes / ORG_PART))))
    }

    /// Takes the room of a batch until the permit is dropped. `None`: too much is in flight.
    pub(crate) fn take(&self, org_id: OrgId, events: usize, bytes: usize) -> Option<Permit> {
        let amount = bytes.saturating_add(events.saturating_mul(EVENT_BYTES));
        self.0.of(org_id).take(u64::try_from(amount).unwrap_or(u64::MAX)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organization_leaves_room_for_others() {
        let (org_id, other) = (OrgId::generate(), OrgId::generate());
        let bytes = BatchBytes::new(8 * 1024 * 1024);
        let first = bytes.take(org_id, 100, 1024 * 1024);
        assert!(first.is_some() && bytes.take(org_id, 100, 1024 * 1024).is_none());
        assert!(bytes.take(other, 100, 1024 * 1024).is_some());
        drop(first);
        assert!(bytes.take(org_id, 100, 1024 * 1024).is_some());
    }
}
