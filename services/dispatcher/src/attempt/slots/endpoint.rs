//! The slots of one endpoint. Pure: takes `now` and the jitter.
//!
//! The window bounds its attempts in flight. It halves when an attempt has no answer, or when the endpoint asks for
//! fewer requests (429, 503), and grows by one with each success: an endpoint that hangs soon has one attempt in
//! flight.

use std::time::{Duration, Instant};

use super::circuit::{AttemptResult, Circuit};
use super::lanes::Lane;

/// Attempts in flight of an endpoint of which nothing is known.
const INITIAL_WINDOW: usize = 16;
/// An attempt that takes longer puts its endpoint into the slow lane.
pub(super) const SLOW_AFTER: Duration = Duration::from_secs(2);

/// What an attempt has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observed {
    /// HTTP status; `None`: there was no answer.
    pub status: Option<u16>,
    pub latency: Duration,
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
}

#[derive(Debug)]
pub(super) struct EndpointSlots {
    in_flight: usize,
    window: usize,
    lane: Lane,
    circuit: Circuit,
    last_used: Instant,
}

impl EndpointSlots {
    pub(super) fn new(now: Instant) -> Self {
        let (window, lane, circuit) = (INITIAL_WINDOW, Lane::Fast, Circuit::CLOSED);
        Self { in_flight: 0, window, lane, circuit, last_used: now }
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
        if self.in_flight >= self.window.min(max_in_flight).max(1) { Err(Refusal::Full) } else { Ok(()) }
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
        Some(Observed { status, latency: Duration::from_millis(millis) })
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
}
