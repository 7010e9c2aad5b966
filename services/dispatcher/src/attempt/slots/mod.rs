//! Which attempts may start: bounds by pool, lane, organization and endpoint, so that no organization delays the
//! webhooks of another one. The rules are in `endpoint`, `circuit`, `rate` and `shared_rate` (one endpoint), `lanes`
//! (all endpoints) and `table` (all attempts); they are pure. `condition` and `changes` say what others may know of an
//! endpoint, and `conditions` shares it through PostgreSQL.

mod changes;
mod circuit;
mod condition;
pub(crate) mod conditions;
mod endpoint;
mod lanes;
mod rate;
mod shared_rate;
#[cfg(test)]
mod simulation;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

pub(crate) use endpoint::{INITIAL_WINDOW, Observed};
pub(crate) use lanes::{Pool, PoolSizes};

use crate::endpoints::matching::Endpoint;
use crate::metrics::METRICS;
use endpoint::Refusal;
use table::{Asking, SlotTable};

/// Slots of all attempts of this instance. Cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    table: Arc<Mutex<SlotTable>>,
    /// Places on a rate limit are asked for.
    asked: Arc<Notify>,
}

/// The answer to a request for a slot.
#[derive(Debug)]
pub(crate) enum Grant {
    Slot(Slot),
    /// All slots that the attempt could have are taken; one becomes free when an attempt ends.
    Busy,
    /// The circuit of the endpoint is open, or it asked for a pause: no attempt starts for so long.
    Blocked(Duration),
    /// The rate limit of the endpoint is used up. An attempt may start after so long.
    RateLimited(Duration),
}

impl Slots {
    pub(crate) fn new(sizes: PoolSizes) -> Self {
        Self { table: Arc::new(Mutex::new(SlotTable::new(sizes, Instant::now()))), asked: Arc::default() }
    }

    /// Asks for a slot of `pool` for an attempt that starts at `now`.
    pub(crate) fn take(&self, pool: Pool, endpoint: &Endpoint, now: Instant) -> Grant {
        let Endpoint { id: endpoint_id, org_id, max_in_flight, rate_limit_per_second: rate_limit, .. } = *endpoint;
        let (taken, has_asks) = {
            let mut table = self.lock();
            (table.take(Asking { pool, org_id, endpoint_id, max_in_flight, rate_limit }, now), table.has_asks())
        };
        if has_asks {
            self.asked.notify_one();
        }
        match taken {
            Ok(number) => Grant::Slot(Slot { slots: self.clone(), number, observed: None }),
            Err(Refusal::Full) => Grant::Busy,
            Err(Refusal::CircuitOpen(wait) | Refusal::Stopped(wait)) => Grant::Blocked(wait),
            Err(Refusal::RateLimited(wait)) => Grant::RateLimited(wait),
        }
    }

    fn lock(&self) -> MutexGuard<'_, SlotTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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
