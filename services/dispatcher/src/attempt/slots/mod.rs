//! Which attempts may start: bounds by pool, lane, organization and endpoint, so that no organization delays the
//! webhooks of another one. The rules are in `endpoint` and `circuit` (one endpoint), `lanes` (all endpoints) and
//! `table` (all attempts); they are pure.

mod circuit;
mod endpoint;
mod lanes;
#[cfg(test)]
mod simulation;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use endpoint::Observed;
pub(crate) use lanes::{Pool, PoolSizes};

use crate::endpoints::matching::Endpoint;
use crate::metrics::METRICS;
use endpoint::Refusal;
use table::{Asking, SlotTable};

/// Slots of all attempts of this instance. Cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Slots(Arc<Mutex<SlotTable>>);

/// The answer to a request for a slot.
#[derive(Debug)]
pub(crate) enum Grant {
    Slot(Slot),
    /// All slots that the attempt could have are taken; one becomes free when an attempt ends.
    Busy,
    /// The circuit of the endpoint is open: no attempt starts for so long.
    CircuitOpen(Duration),
}

impl Slots {
    pub(crate) fn new(sizes: PoolSizes) -> Self {
        Self(Arc::new(Mutex::new(SlotTable::new(sizes, Instant::now()))))
    }

    /// Asks for a slot of `pool` for an attempt that starts at `now`.
    pub(crate) fn take(&self, pool: Pool, endpoint: &Endpoint, now: Instant) -> Grant {
        let Endpoint { id: endpoint_id, org_id, max_in_flight, .. } = *endpoint;
        match self.lock().take(Asking { pool, org_id, endpoint_id, max_in_flight }, now) {
            Ok(number) => Grant::Slot(Slot { slots: self.clone(), number, observed: None }),
            Err(Refusal::Full) => Grant::Busy,
            Err(Refusal::CircuitOpen(wait)) => Grant::CircuitOpen(wait),
        }
    }

    fn lock(&self) -> MutexGuard<'_, SlotTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one attempt. Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    number: u64,
    observed: Option<Observed>,
}

impl Slot {
    /// Frees the slot with what the attempt has shown of the endpoint.
    pub(crate) fn finish(mut self, observed: Observed) {
        self.observed = Some(observed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let jitter = rand::random_range(-1.0..=1.0);
        let has_opened = self.slots.lock().end(self.number, self.observed, Instant::now(), jitter);
        if has_opened {
            METRICS.circuits_opened.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::ids::OrgId;

    use super::*;
    use crate::endpoints::matching::tests::endpoint_of;

    #[test]
    fn a_slot_is_free_again_after_its_attempt() {
        let slots = Slots::new(PoolSizes { first_attempts: 10, retries: 10 });
        let (now, endpoint) = (Instant::now(), endpoint_of(OrgId::generate()));
        let take = || slots.take(Pool::FirstAttempts, &endpoint, now);
        let first = take();
        assert!(matches!((&first, take()), (Grant::Slot(_), Grant::Busy)));
        drop(first);
        assert!(matches!(take(), Grant::Slot(_)));
    }
}
