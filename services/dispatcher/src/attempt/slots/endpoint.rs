//! The slots of one endpoint. Pure: takes `now` and the jitter.
//!
//! The window bounds its attempts in flight. It halves when an attempt has no answer, or when the endpoint asks for
//! fewer requests (429, 503), and grows by one with each success: an endpoint that hangs soon has one attempt in
//! flight. A rate limit bounds the attempts per second (`rate`). A 429 with `Retry-After` stops the endpoint until
//! then.

use std::time::{Duration, Instant};

use super::circuit::{AttemptResult, Circuit};
use super::condition::{CircuitState, Condition, Health, StoredCondition};
use super::lanes::{Lane, Pool};
use super::rate::{Place, RateBucket};
use crate::retry::policy::RETRY_AFTER_LIMIT;

/// Attempts in flight of an endpoint of which nothing is known.
pub(crate) const INITIAL_WINDOW: usize = 16;
/// An attempt that takes longer puts its endpoint into the slow lane.
pub(super) const SLOW_AFTER: Duration = Duration::from_secs(2);

/// What an attempt has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observed {
    /// HTTP status; `None`: there was no answer.
    pub status: Option<u16>,
    pub latency: Duration,
    /// The endpoint asked for a pause of so long.
    pub retry_after: Option<Duration>,
    /// The event was the system's own: then a failure disables nothing, since that would be another such event.
    pub is_of_system: bool,
}

impl Observed {
    fn result(self) -> AttemptResult {
        match self.status {
            Some(200..=299) => AttemptResult::Success,
            Some(_) => AttemptResult::Failure,
            None => AttemptResult::NoAnswer,
        }
    }
}

/// Why no attempt starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Full,
    CircuitOpen(Duration),
    /// The endpoint asked for a pause.
    Stopped(Duration),
    /// Its rate limit is used up. There may be a place after so long.
    RateLimited(Duration),
}

#[derive(Debug)]
pub(super) struct EndpointSlots {
    in_flight: usize,
    window: usize,
    lane: Lane,
    circuit: Circuit,
    stopped_until: Option<Instant>,
    /// Of an endpoint with a rate limit.
    rate: Option<RateBucket>,
    health: Health,
    /// The condition that was reported last; `None`: none was.
    reported: Option<Condition>,
    /// The version of the condition that was taken over last.
    adopted: i64,
    last_used: Instant,
}

impl EndpointSlots {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            in_flight: 0,
            window: INITIAL_WINDOW,
            lane: Lane::Fast,
            circuit: Circuit::CLOSED,
            stopped_until: None,
            rate: None,
            health: Health::default(),
            reported: None,
            adopted: i64::MIN,
            last_used: now,
        }
    }

    pub(super) fn lane(&self) -> Lane {
        self.lane
    }

    pub(super) fn is_circuit_open(&self) -> bool {
        !self.circuit.is_closed()
    }

    /// Whether an attempt may start. `max_in_flight` is the endpoint's own bound.
    pub(super) fn check(&self, max_in_flight: usize, now: Instant) -> Result<(), Refusal> {
        let blocked = self.circuit.blocked_for(now);
        if !blocked.is_zero() {
            return Err(Refusal::CircuitOpen(blocked));
        }
        let stopped = self.stopped_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        if !stopped.is_zero() {
            return Err(Refusal::Stopped(stopped));
        }
        if self.in_flight >= self.window.min(max_in_flight).max(1) { Err(Refusal::Full) } else { Ok(()) }
    }

    /// Takes a place on the rate limit of the endpoint; without a limit there is none to take.
    pub(super) fn take_place(
        &mut self,
        rate_limit: Option<u32>,
        pool: Pool,
        now: Instant,
    ) -> Result<Option<Place>, Refusal> {
        if rate_limit.is_none() {
            self.rate = None;
            return Ok(None);
        }
        let bucket = self.rate.get_or_insert_with(|| RateBucket::new(now));
        bucket.take(pool, now).map(Some).map_err(Refusal::RateLimited)
    }

    /// Gives back a place whose request was not sent.
    pub(super) fn give_back(&mut self, pool: Pool, place: Place) {
        if let Some(bucket) = &mut self.rate {
            bucket.give_back(pool, place);
        }
    }

    pub(super) fn bucket(&mut self) -> Option<&mut RateBucket> {
        self.rate.as_mut()
    }

    pub(super) fn start(&mut self, now: Instant) {
        self.in_flight += 1;
        self.last_used = now;
        self.circuit = self.circuit.start();
    }

    /// An attempt ended; `None`: without a result. `max_in_flight` as in [`Self::check`]; `jitter` is random, from -1
    /// to 1.
    pub(super) fn end(&mut self, observed: Option<Observed>, max_in_flight: usize, now: Instant, jitter: f64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.last_used = now;
        self.circuit = self.circuit.end(observed.map(Observed::result), now, jitter);
        let Some(observed) = observed else { return };
        if observed.status == Some(429)
            && let Some(pause) = observed.retry_after
        {
            self.stopped_until = self.stopped_until.max(Some(now + pause.min(RETRY_AFTER_LIMIT)));
        }
        self.adapt_rate(observed.status);
        let is_slow = observed.status.is_none() || observed.latency > SLOW_AFTER;
        self.lane = if is_slow { Lane::Slow } else { Lane::Fast };
        // From the endpoint's own bound, or the first halvings of a large window would change nothing.
        let window = self.window.min(max_in_flight);
        match observed.status {
            None | Some(429 | 503) => self.window = (window / 2).max(1),
            Some(200..=299) => self.window = (window + 1).min(max_in_flight.max(INITIAL_WINDOW)),
            Some(_) => {}
        }
    }

    fn adapt_rate(&mut self, status: Option<u16>) {
        let Some(bucket) = &mut self.rate else { return };
        match status {
            None | Some(429 | 503) => bucket.has_setback(),
            Some(200..=299) => bucket.has_success(),
            Some(_) => {}
        }
    }

    /// Takes over what another process knows of the endpoint. A circuit that is not closed here is better known here.
    pub(super) fn adopt(&mut self, stored: StoredCondition, now: Instant) {
        if stored.version <= self.adopted {
            return;
        }
        self.adopted = stored.version;
        self.last_used = now;
        if let Some(retry_after) = stored.retry_after
            && self.circuit.is_closed()
        {
            self.circuit = Circuit::adopted(retry_after, now);
        }
        let until = stored.stopped_for.map(|pause| now + pause.min(RETRY_AFTER_LIMIT));
        self.stopped_until = self.stopped_until.max(until);
        self.reported = self.reported.map(|reported| self.condition(reported.max_in_flight));
    }

    fn condition(&self, max_in_flight: usize) -> Condition {
        let (circuit, stopped_until) = (CircuitState::from(self.circuit), self.stopped_until);
        Condition { circuit, stopped_until, max_in_flight: self.window.min(max_in_flight).max(1) }
    }

    /// The condition if it was not reported yet. `max_in_flight` as in [`Self::check`].
    pub(super) fn changed_condition(&mut self, max_in_flight: usize) -> Option<Condition> {
        let initial = Condition::initial(INITIAL_WINDOW.min(max_in_flight).max(1));
        let condition = self.condition(max_in_flight);
        let is_new = condition != self.reported.unwrap_or(initial);
        is_new.then(|| *self.reported.insert(condition))
    }

    /// Whether a condition of it was reported.
    pub(super) fn is_reported(&self) -> bool {
        self.reported.is_some()
    }

    /// Notes whether an attempt succeeded. Returns what to report.
    pub(super) fn note_health(&mut self, observed: Observed, now: Instant) -> Option<bool> {
        if observed.is_of_system {
            return None;
        }
        let (health, is_reported) = self.health.after(observed.result() == AttemptResult::Success, now);
        self.health = health;
        if is_reported { health.is_failing() } else { None }
    }

    /// An attempt is in flight for long.
    pub(super) fn slow_down(&mut self) {
        self.lane = Lane::Slow;
    }

    pub(super) fn is_idle_since(&self, idle: Duration, now: Instant) -> bool {
        self.in_flight == 0 && now.saturating_duration_since(self.last_used) >= idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(state: &mut EndpointSlots, outcome: Option<Observed>, now: Instant) {
        state.end(outcome, 100, now, 0.0);
    }

    fn observed(status: Option<u16>, millis: u64) -> Option<Observed> {
        Some(Observed { status, latency: Duration::from_millis(millis), retry_after: None, is_of_system: false })
    }

    /// Attempts that may be in flight at the same time.
    fn room(state: &mut EndpointSlots, now: Instant) -> usize {
        let mut started = 0;
        while state.check(100, now).is_ok() {
            state.start(now);
            started += 1;
        }
        for _ in 0..started {
            end(state, None, now);
        }
        started
    }

    #[test]
    fn the_window_follows_the_answers() {
        let now = Instant::now();
        let mut state = EndpointSlots::new(now);
        assert_eq!(room(&mut state, now), 16);
        end(&mut state, observed(Some(429), 1), now);
        assert_eq!(room(&mut state, now), 8);
        end(&mut state, observed(None, 10_000), now);
        assert_eq!(room(&mut state, now), 4);
        end(&mut state, observed(Some(200), 1), now);
        assert_eq!(room(&mut state, now), 5);
        for _ in 0..200 {
            end(&mut state, observed(Some(200), 1), now);
        }
        assert_eq!(room(&mut state, now), 100, "the endpoint's own bound holds");
    }

    #[test]
    fn the_last_answer_decides_on_the_lane() {
        let now = Instant::now();
        let mut state = EndpointSlots::new(now);
        let mut lane_after = |outcome| {
            end(&mut state, outcome, now);
            state.lane()
        };
        assert_eq!(lane_after(observed(Some(200), 2001)), Lane::Slow);
        assert_eq!(lane_after(observed(Some(500), 10)), Lane::Fast);
        assert_eq!(lane_after(observed(None, 10)), Lane::Slow);
        assert_eq!(lane_after(None), Lane::Slow, "an attempt that was given up shows nothing");
        assert_eq!(lane_after(observed(Some(204), 10)), Lane::Fast);
    }

    #[test]
    fn an_open_circuit_refuses_until_its_probe() {
        let now = Instant::now();
        let mut state = EndpointSlots::new(now);
        for _ in 0..3 {
            state.start(now);
        }
        for _ in 0..3 {
            end(&mut state, observed(None, 10_000), now);
        }
        assert!(matches!(state.check(100, now), Err(Refusal::CircuitOpen(_))));
        let later = now + Duration::from_secs(10);
        assert_eq!(state.check(100, later), Ok(()));
        state.start(later);
        assert!(matches!(state.check(100, later), Err(Refusal::CircuitOpen(_))), "one probe at a time");
        end(&mut state, observed(Some(200), 5), later);
        assert_eq!((state.check(100, later), state.lane()), (Ok(()), Lane::Fast));
    }

    #[test]
    fn retry_after_of_a_429_stops_the_endpoint() {
        let now = Instant::now();
        let mut state = EndpointSlots::new(now);
        let asks = |status, seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            Some(Observed { status: Some(status), latency: Duration::ZERO, retry_after, is_of_system: false })
        };
        end(&mut state, asks(503, 60), now);
        assert_eq!(state.check(100, now), Ok(()), "only a 429 is about the rate");
        end(&mut state, asks(429, 60), now);
        end(&mut state, asks(429, 5), now);
        assert_eq!(state.check(100, now), Err(Refusal::Stopped(Duration::from_secs(60))));
        assert_eq!(state.check(100, now + Duration::from_secs(60)), Ok(()));
        end(&mut state, asks(429, 100_000), now);
        assert_eq!(state.check(100, now), Err(Refusal::Stopped(RETRY_AFTER_LIMIT)), "it is bounded");
    }

    #[test]
    fn a_condition_is_reported_when_it_changes() {
        let now = Instant::now();
        let mut state = EndpointSlots::new(now);
        let mut report = |status| {
            end(&mut state, observed(status, 1), now);
            state.changed_condition(16).map(|condition| (condition.circuit.as_str(), condition.max_in_flight))
        };
        assert_eq!(report(Some(200)), None);
        assert_eq!(report(Some(429)), Some(("closed", 8)));
        assert_eq!(report(Some(500)), None);
        assert_eq!(
            [report(None), report(None), report(None)].map(|report| report.unwrap().0),
            ["closed", "closed", "open"]
        );
        let stored = StoredCondition {
            endpoint_id: schemas::ids::EndpointId::generate(),
            retry_after: Some(Duration::from_secs(9)),
            stopped_for: Some(Duration::from_secs(90)),
            version: 1,
        };
        let mut other = EndpointSlots::new(now);
        other.adopt(stored, now);
        assert_eq!(other.check(16, now), Err(Refusal::CircuitOpen(Duration::from_secs(9))));
        let later = now + Duration::from_secs(9);
        assert_eq!(other.check(16, later), Err(Refusal::Stopped(Duration::from_secs(81))));
        end(&mut other, observed(Some(200), 1), later);
        other.adopt(stored, later);
        assert!(!other.is_circuit_open(), "what was taken over once is not taken over again");
    }
}
