//! All attempts in flight, and which may start. Pure: takes `now` and the jitter.
//!
//! An attempt that is in flight for long moves to the slow lane, with its endpoint: the fast lane has only attempts
//! that started a moment ago. So endpoints that hang from one moment on, however many, soon leave room for the others.
//! The slow lane can be overfull for that reason; then no attempt starts in it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use schemas::ids::{EndpointId, OrgId};

use super::changes::Changes;
use super::condition::{ConditionChange, StoredCondition};
use super::endpoint::{EndpointSlots, Observed, Refusal, SLOW_AFTER};
use super::lanes::{Lane, Lanes, Pool, PoolSizes};
use super::rate::{Place, RateFeedback};
use super::shared_rate::Lease;

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
    /// Requests per second; `None`: no limit.
    pub rate_limit: Option<u32>,
}

#[derive(Debug)]
struct InFlight {
    asking: Asking,
    lane: Lane,
    /// On the rate limit of the endpoint.
    place: Option<Place>,
}

/// Asks for places on the rate limit of an endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RateAsk {
    pub endpoint_id: EndpointId,
    pub limit: u32,
    pub feedback: RateFeedback,
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
    /// Endpoints that need places on their rate limit, with the limit.
    asks: Vec<(EndpointId, u32)>,
    /// What others do not know yet; the newest change of each endpoint.
    changes: Changes,
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
            asks: Vec::new(),
            changes: Changes::default(),
        }
    }

    /// Starts an attempt. Returns its number, for [`Self::end`].
    pub(super) fn take(&mut self, asking: Asking, now: Instant) -> Result<u64, Refusal> {
        self.age(now);
        self.forget(now);
        let Asking { pool, org_id, endpoint_id, max_in_flight, rate_limit } = asking;
        let state = self.endpoints.entry(endpoint_id).or_insert_with(|| EndpointSlots::new(now));
        state.check(max_in_flight, now)?;
        let lane = state.lane();
        if !self.lanes.take(pool, lane, org_id) {
            return Err(Refusal::Full);
        }
        // Last, so that a place is used by the one who takes it.
        let place = state.take_place(rate_limit, pool, now);
        if let Some(limit) = rate_limit
            && state.bucket().is_some_and(|bucket| bucket.ask(now))
        {
            self.asks.push((endpoint_id, limit));
        }
        let place = place.inspect_err(|_| self.lanes.free(pool, lane, org_id))?;
        state.start(now);
        // The attempt may be the probe of an open circuit.
        self.changes.note(asking, state, None);
        self.last_number += 1;
        self.in_flight.insert(self.last_number, InFlight { asking, lane, place });
        if lane == Lane::Fast {
            self.young.push_back((now, self.last_number));
        }
        Ok(self.last_number)
    }

    /// Ends an attempt; `observed`: what it has shown. Returns whether the circuit of its endpoint has opened.
    pub(super) fn end(&mut self, number: u64, observed: Option<Observed>, now: Instant, jitter: f64) -> bool {
        let Some(InFlight { asking, lane, place }) = self.in_flight.remove(&number) else { return false };
        self.lanes.free(asking.pool, lane, asking.org_id);
        let Some(state) = self.endpoints.get_mut(&asking.endpoint_id) else { return false };
        let was_open = state.is_circuit_open();
        state.end(observed, asking.max_in_flight, now, jitter);
        match (observed, place) {
            (None, Some(place)) => state.give_back(asking.pool, place),
            (None, None) => {}
            (Some(observed), _) => {
                let is_failing = state.note_health(observed, now);
                self.changes.note(asking, state, is_failing);
            }
        }
        state.is_circuit_open() && !was_open
    }

    /// What to ask the database for, at most `max` endpoints. [`Self::granted`] or [`Self::refused`] follows for each.
    pub(super) fn take_asks(&mut self, max: usize) -> Vec<RateAsk> {
        let asks = self.asks.drain(..max.min(self.asks.len()));
        let ask = |(endpoint_id, limit)| {
            let feedback = self.endpoints.get_mut(&endpoint_id)?.bucket()?.take_feedback();
            Some(RateAsk { endpoint_id, limit, feedback })
        };
        asks.filter_map(ask).collect()
    }

    pub(super) fn has_asks(&self) -> bool {
        !self.asks.is_empty()
    }

    /// Places were leased: asked for at `asked`, and answered at `now`.
    pub(super) fn granted(&mut self, endpoint: EndpointId, lease: Lease, asked: Instant, now: Instant) {
        if let Some(bucket) = self.endpoints.get_mut(&endpoint).and_then(EndpointSlots::bucket) {
            bucket.granted(lease, asked, now);
        }
    }

    /// No places were leased: ask again after this time.
    pub(super) fn refused(&mut self, endpoint: EndpointId, after: Duration, now: Instant) {
        if let Some(bucket) = self.endpoints.get_mut(&endpoint).and_then(EndpointSlots::bucket) {
            bucket.refused(after, now);
        }
    }

    /// Conditions that changed since the last call, at most `max`.
    pub(super) fn take_changes(&mut self, max: usize) -> Vec<ConditionChange> {
        self.changes.take(max)
    }

    /// Puts back changes that could not be written, unless there are newer ones.
    pub(super) fn put_back(&mut self, changes: Vec<ConditionChange>) {
        changes.into_iter().for_each(|change| self.changes.put_back(change));
    }

    /// Takes over what another process knows of an endpoint.
    pub(super) fn adopt(&mut self, stored: StoredCondition, now: Instant) {
        let state = self.endpoints.entry(stored.endpoint_id).or_insert_with(|| EndpointSlots::new(now));
        state.adopt(stored, now);
    }

    /// Moves attempts that are in flight for long to the slow lane.
    fn age(&mut self, now: Instant) {
        let is_old = |started: Instant| now.saturating_duration_since(started) >= SLOW_AFTER;
        while let Some((_, number)) = self.young.pop_front_if(|(started, _)| is_old(*started)) {
            let Some(InFlight { asking, lane, .. }) = self.in_flight.get_mut(&number) else { continue };
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
        let changes = &mut self.changes;
        self.endpoints.retain(|endpoint_id, state| {
            let is_forgotten = state.is_idle_since(FORGET_AFTER, now);
            if is_forgotten && state.is_reported() {
                changes.forget(*endpoint_id);
            }
            !is_forgotten
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZES: PoolSizes = PoolSizes { first_attempts: 100, retries: 10 };

    fn asking(org_id: OrgId, endpoint_id: EndpointId, max_in_flight: usize) -> Asking {
        Asking { pool: Pool::FirstAttempts, org_id, endpoint_id, max_in_flight, rate_limit: None }
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
        table.end(
            first,
            Some(Observed {
                status: Some(200),
                latency: Duration::from_millis(5),
                retry_after: None,
                is_of_system: false,
            }),
            later,
            0.0,
        );
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
                    let (status, latency) = (Some(200), Duration::ZERO);
                    let observed = Observed { status, latency, retry_after: None, is_of_system: false };
                    table.end(number, Some(observed), now, 0.0);
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
