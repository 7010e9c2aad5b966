//! Which attempts may start: bounds by pool, lane, organization and endpoint, so that no organization delays the
//! webhooks of another one. The rules are in `endpoint` (one endpoint) and `lanes` (all of them); both are pure.

mod circuit;
mod endpoint;
mod lanes;
#[cfg(test)]
mod simulation;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use schemas::ids::{EndpointId, OrgId};

pub(crate) use endpoint::Observed;
pub(crate) use lanes::{Pool, PoolSizes};

use crate::endpoints::matching::Endpoint;
use crate::metrics::METRICS;
use endpoint::{EndpointSlots, Refusal};
use lanes::{Lane, Lanes};

/// An endpoint without attempts is forgotten after so long. Its next attempt starts as that of a new endpoint.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// Between two looks for endpoints to forget.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// Slots of all attempts of this instance. Cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Slots(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    lanes: Lanes,
    endpoints: HashMap<EndpointId, EndpointSlots>,
    last_forgotten: Instant,
}

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
        let inner = Inner { lanes: Lanes::new(sizes), endpoints: HashMap::new(), last_forgotten: Instant::now() };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Asks for a slot of `pool` for an attempt that starts at `now`.
    pub(crate) fn take(&self, pool: Pool, endpoint: &Endpoint, now: Instant) -> Grant {
        let mut inner = self.lock();
        inner.forget(now);
        let Inner { lanes, endpoints, .. } = &mut *inner;
        let state = endpoints.entry(endpoint.id).or_insert_with(|| EndpointSlots::new(now));
        let lane = state.lane();
        match state.check(endpoint.max_in_flight, now) {
            Err(Refusal::Full) => return Grant::Busy,
            Err(Refusal::CircuitOpen(wait)) => return Grant::CircuitOpen(wait),
            Ok(()) => {}
        }
        if !lanes.take(pool, lane, endpoint.org_id) {
            return Grant::Busy;
        }
        state.start(now);
        drop(inner);
        let Endpoint { id: endpoint_id, org_id, max_in_flight, .. } = *endpoint;
        Grant::Slot(Slot { slots: self.clone(), pool, lane, org_id, endpoint_id, max_in_flight, observed: None })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn forget(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_forgotten) < FORGET_INTERVAL {
            return;
        }
        self.last_forgotten = now;
        self.endpoints.retain(|_, state| !state.is_idle_since(FORGET_AFTER, now));
    }
}

/// The right to one attempt. Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    pool: Pool,
    lane: Lane,
    org_id: OrgId,
    endpoint_id: EndpointId,
    max_in_flight: usize,
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
        let mut inner = self.slots.lock();
        inner.lanes.free(self.pool, self.lane, self.org_id);
        let Some(state) = inner.endpoints.get_mut(&self.endpoint_id) else { return };
        let was_open = state.is_circuit_open();
        let jitter = rand::random_range(-1.0..=1.0);
        state.end(self.observed, self.max_in_flight, Instant::now(), jitter);
        let is_open = state.is_circuit_open();
        drop(inner);
        if is_open && !was_open {
            METRICS.circuits_opened.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::matching::tests::endpoint_of;

    #[test]
    fn a_slot_is_free_again_after_its_attempt() {
        let slots = Slots::new(PoolSizes { first_attempts: 10, retries: 10 });
        let (now, endpoint) = (Instant::now(), Endpoint { max_in_flight: 2, ..endpoint_of(OrgId::generate()) });
        let take = || slots.take(Pool::FirstAttempts, &endpoint, now);
        let (first, second) = (take(), take());
        assert!(matches!((&first, &second, take()), (Grant::Slot(_), Grant::Slot(_), Grant::Busy)));
        assert!(matches!(slots.take(Pool::Retries, &endpoint, now), Grant::Busy), "both pools count per endpoint");
        drop(first);
        assert!(matches!(take(), Grant::Slot(_)));
        drop(second);
    }

    #[test]
    fn an_idle_endpoint_is_forgotten() {
        let slots = Slots::new(PoolSizes { first_attempts: 10, retries: 10 });
        let (now, org) = (Instant::now(), OrgId::generate());
        let (idle, busy) = (endpoint_of(org), endpoint_of(org));
        drop(slots.take(Pool::Retries, &idle, now));
        let in_flight = slots.take(Pool::Retries, &busy, now);
        drop(slots.take(Pool::Retries, &endpoint_of(org), now + FORGET_AFTER * 2));
        let known = slots.lock().endpoints.keys().copied().collect::<Vec<_>>();
        assert!(known.contains(&busy.id) && !known.contains(&idle.id) && known.len() == 2, "{known:?}");
        drop(in_flight);
    }
}
