//! All attempts in flight, and which may start. Pure: takes `now` and the jitter.
//!
//! An attempt that is in flight for long moves to the slow lane, with its endpoint: the fast lane has only attempts that
//! started a moment ago. So endpoints that hang from one moment on, however many, soon leave room for the others. The
//! slow lane can be overfull for that reason; then no attempt starts in it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use schemas::ids::{EndpointId, OrgId};

use super::endpoint::{EndpointSlots, Observed, Refusal, SLOW_AFTER};
use super::lanes::{Lane, Lanes, Pool, PoolSizes};

/// An endpoint without attempts is forgotten after so long. Its next attempt starts as that of a new endpoint.
pub(super) const FORGET_AFTER: Duration = Duration::from_secs(600);
/// Between two looks for endpoints to forget.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// Who asks for a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking {
    pub pool: Pool,
    pub org_id: OrgId,
    pub endpoint_id: EndpointId,
    /// The endpoint's own bound.
    pub max_in_flight: usize,
}

#[derive(Debug)]
struct InFlight {
    asking: Asking,
    lane: Lane,
}

#[derive(Debug)]
pub(super) struct SlotTable {
    lanes: Lanes,
    endpoints: HashMap<EndpointId, EndpointSlots>,
    in_flight: HashMap<u64, InFlight>,
    /// Attempts in the order of their start, until they are old; some have ended.
    young: VecDeque<(Instant, u64)>,
    last_number: u64,
    last_forgotten: Instant,
}

impl SlotTable {
    pub(super) fn new(sizes: PoolSizes, now: Instant) -> Self {
        Self {
            lanes: Lanes::new(sizes),
            endpoints: HashMap::new(),
            in_flight: HashMap::new(),
            young: VecDeque::new(),
            last_number: 0,
            last_forgotten: now,
        }
    }

    /// Starts an attempt. Returns its number, for [`Self::end`].
    pub(super) fn take(&mut self, asking: Asking, now: Instant) -> Result<u64, Refusal> {
        self.age(now);
        self.forget(now);
        let state = self.endpoints.entry(asking.endpoint_id).or_insert_with(|| EndpointSlots::new(now));
        state.check(asking.max_in_flight, now)?;
        let lane = state.lane();
        if !self.lanes.take(asking.pool, lane, asking.org_id) {
            return Err(Refusal::Full);
        }
        state.start(now);
        self.last_number += 1;
        self.in_flight.insert(self.last_number, InFlight { asking, lane });
        if lane == Lane::Fast {
            self.young.push_back((now, self.last_number));
        }
        Ok(self.last_number)
    }

    /// Ends an attempt; `observed`: what it has shown. Returns whether the circuit of its endpoint has opened.
    pub(super) fn end(&mut self, number: u64, observed: Option<Observed>, now: Instant, jitter: f64) -> bool {
        let Some(InFlight { asking, lane }) = self.in_flight.remove(&number) else { return false };
        self.lanes.free(asking.pool, lane, asking.org_id);
        let Some(state) = self.endpoints.get_mut(&asking.endpoint_id) else { return false };
        let was_open = state.is_circuit_open();
        state.end(observed, asking.max_in_flight, now, jitter);
        state.is_circuit_open() && !was_open
    }

    /// Moves attempts that are in flight for long to the slow lane.
    fn age(&mut self, now: Instant) {
        let is_old = |started: Instant| now.saturating_duration_since(started) >= SLOW_AFTER;
        while let Some((_, number)) = self.young.pop_front_if(|(started, _)| is_old(*started)) {
            let Some(InFlight { asking, lane }) = self.in_flight.get_mut(&number) else { continue };
            *lane = Lane::Slow;
            self.lanes.slow_down(asking.pool, asking.org_id);
            if let Some(state) = self.endpoints.get_mut(&asking.endpoint_id) {
                state.slow_down();
            }
        }
    }

    fn forget(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_forgotten) < FORGET_INTERVAL {
            return;
        }
        self.last_forgotten = now;
        self.endpoints.retain(|_, state| !state.is_idle_since(FORGET_AFTER, now));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZES: PoolSizes = PoolSizes { first_attempts: 100, retries: 10 };

    fn asking(org_id: OrgId, endpoint_id: EndpointId, max_in_flight: usize) -> Asking {
        Asking { pool: Pool::FirstAttempts, org_id, endpoint_id, max_in_flight }
    }

    #[test]
    fn both_pools_count_per_endpoint() {
        let now = Instant::now();
        let mut table = SlotTable::new(SIZES, now);
        let asking = asking(OrgId::generate(), EndpointId::generate(), 2);
        let first = table.take(asking, now).unwrap();
        table.take(Asking { pool: Pool::Retries, ..asking }, now).unwrap();
        assert_eq!(table.take(asking, now), Err(Refusal::Full));
        table.end(first, None, now, 0.0);
        assert!(table.take(asking, now).is_ok());
    }

    #[test]
    fn attempts_in_flight_for_long_leave_the_fast_lane() {
        let now = Instant::now();
        let mut table = SlotTable::new(SIZES, now);
        let start = |table: &mut SlotTable, now| {
            std::iter::from_fn(|| table.take(asking(OrgId::generate(), EndpointId::generate(), 1), now).ok()).count()
        };
        let hanging = asking(OrgId::generate(), EndpointId::generate(), 10);
        let first = table.take(hanging, now).unwrap();
        assert_eq!(start(&mut table, now), 79, "the fast lane is full");
        let later = now + SLOW_AFTER;
        assert_eq!(start(&mut table, later), 80, "it is empty again");
        assert_eq!(table.take(hanging, later), Err(Refusal::Full), "the slow lane is overfull");
        table.end(first, Some(Observed { status: Some(200), latency: Duration::from_millis(5) }), later, 0.0);
        assert_eq!(table.take(hanging, later), Err(Refusal::Full), "it is fast again, and that lane is full");
        assert_eq!(table.lanes.taken(Pool::FirstAttempts, Lane::Slow), 79);
    }

    #[test]
    fn an_idle_endpoint_is_forgotten() {
        let now = Instant::now();
        let mut table = SlotTable::new(SIZES, now);
        let org_id = OrgId::generate();
        let (idle, busy) = (asking(org_id, EndpointId::generate(), 1), asking(org_id, EndpointId::generate(), 1));
        let number = table.take(idle, now).unwrap();
        table.end(number, None, now, 0.0);
        table.take(busy, now).unwrap();
        table.take(asking(org_id, EndpointId::generate(), 1), now + FORGET_AFTER).unwrap();
        assert!(table.endpoints.contains_key(&busy.endpoint_id) && !table.endpoints.contains_key(&idle.endpoint_id));
    }

    proptest! {
        #[test]
        fn every_slot_is_free_again_when_all_attempts_ended(
            steps in prop::collection::vec((0_usize..4, 0_u64..3000, any::<bool>()), 1..200),
        ) {
            let endpoints: Vec<Asking> =
                (0..4).map(|_| asking(OrgId::generate(), EndpointId::generate(), 8)).collect();
            let mut now = Instant::now();
            let (mut table, mut running) = (SlotTable::new(SIZES, now), Vec::new());
            for (which, millis, starts) in steps {
                now += Duration::from_millis(millis);
                if starts {
                    running.extend(table.take(endpoints[which], now));
                } else if let Some(number) = running.pop() {
                    table.end(number, Some(Observed { status: Some(200), latency: Duration::ZERO }), now, 0.0);
                }
            }
            for number in running {
                table.end(number, None, now, 0.0);
            }
            for lane in [Lane::Fast, Lane::Slow] {
                prop_assert_eq!(table.lanes.taken(Pool::FirstAttempts, lane), 0);
            }
            prop_assert!(table.in_flight.is_empty());
        }
    }
}
