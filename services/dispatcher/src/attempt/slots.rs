//! Bounds the requests in flight per endpoint, for first attempts and retries together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use schemas::ids::EndpointId;

/// Requests in flight per endpoint. Cloning shares the counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots(Arc<Mutex<HashMap<EndpointId, usize>>>);

/// The right to one request to an endpoint. Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    endpoint: EndpointId,
}

impl Slots {
    /// `None`: `limit` slots of the endpoint are taken.
    pub(crate) fn take(&self, endpoint: EndpointId, limit: usize) -> Option<Slot> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(endpoint).or_default();
        if *count >= limit.max(1) {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Slot { slots: self.clone(), endpoint })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.endpoint) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.endpoint);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_bounded_per_endpoint_and_freed() {
        let slots = Slots::default();
        let (a, b) = (EndpointId::generate(), EndpointId::generate());
        let first = slots.take(a, 2);
        let second = slots.take(a, 2);
        assert!(first.is_some() && second.is_some() && slots.take(a, 2).is_none() && slots.take(b, 1).is_some());
        drop(first);
        assert!(slots.take(a, 2).is_some());
        drop(second);
        assert!(slots.0.lock().unwrap().is_empty());
    }
}
