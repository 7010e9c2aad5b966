//! The circuit breaker of an endpoint. Pure: takes `now` and the jitter.
//!
//! Closed: attempts start. After some failures in a row it opens: no attempt starts, and deliveries wait without using
//! up their attempts. When its time is over, one attempt probes the endpoint. If that succeeds, the circuit closes; if
//! it fails, the circuit opens again for twice as long.

use std::time::{Duration, Instant};

/// Failures in a row that open the circuit. They cost little while the endpoint answers, so there may be many.
const MAX_FAILURES: u32 = 100;
/// Attempts without an answer in a row that open the circuit: each of them holds a slot until its timeout.
const MAX_WITHOUT_ANSWER: u32 = 3;
/// How long the circuit is open for the first time, and at most.
const FIRST_OPEN: Duration = Duration::from_secs(5);
const LONGEST_OPEN: Duration = Duration::from_secs(60);

/// What an attempt says of the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptResult {
    Success,
    /// It answered, but not with success.
    Failure,
    /// Timeout, or no connection.
    NoAnswer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Circuit {
    Closed {
        failures: u32,
        without_answer: u32,
    },
    Open {
        until: Instant,
        /// How long it was opened for.
        period: Duration,
    },
    /// One attempt probes the endpoint.
    HalfOpen {
        period: Duration,
    },
}

impl Circuit {
    pub(super) const CLOSED: Self = Self::Closed { failures: 0, without_answer: 0 };

    /// How long no attempt may start; zero: one may.
    pub(super) fn blocked_for(self, now: Instant) -> Duration {
        match self {
            Self::Closed { .. } => Duration::ZERO,
            Self::Open { until, .. } => until.saturating_duration_since(now),
            // The probe ends this, by its timeout at the latest.
            Self::HalfOpen { period } => period,
        }
    }

    /// The circuit of an endpoint that another dispatcher has opened, or this one before it was restarted.
    pub(super) fn adopted(retry_after: Duration, now: Instant) -> Self {
        let retry_after = retry_after.min(LONGEST_OPEN);
        Self::Open { until: now + retry_after, period: retry_after.max(FIRST_OPEN) }
    }

    pub(super) const fn is_closed(self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// An attempt starts, which [`Self::blocked_for`] has allowed.
    pub(super) fn start(self) -> Self {
        match self {
            Self::Open { period, .. } => Self::HalfOpen { period },
            other => other,
        }
    }

    /// An attempt ended; `None`: without a result. `jitter` is random, from -1 to 1.
    pub(super) fn end(self, result: Option<AttemptResult>, now: Instant, jitter: f64) -> Self {
        let open =
            |period: Duration| Self::Open { until: now + period.mul_f64(1.0 + 0.2 * jitter.clamp(-1.0, 1.0)), period };
        match (self, result) {
            (_, Some(AttemptResult::Success)) => Self::CLOSED,
            (Self::Closed { failures, without_answer }, Some(failed)) => {
                let failures = failures.saturating_add(1);
                let without_answer =
                    if failed == AttemptResult::NoAnswer { without_answer.saturating_add(1) } else { 0 };
                if failures >= MAX_FAILURES || without_answer >= MAX_WITHOUT_ANSWER {
                    open(FIRST_OPEN)
                } else {
                    Self::Closed { failures, without_answer }
                }
            }
            (Self::HalfOpen { period }, Some(_)) => open((period * 2).min(LONGEST_OPEN)),
            // The probe was given up: the next attempt is the probe.
            (Self::HalfOpen { period }, None) => Self::Open { until: now, period },
            // Attempts that started before it opened.
            (other, _) => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(mut circuit: Circuit, results: &[AttemptResult], now: Instant) -> Circuit {
        for result in results {
            circuit = circuit.end(Some(*result), now, 0.0);
        }
        circuit
    }

    #[test]
    fn it_opens_after_failures_in_a_row() {
        use AttemptResult::{Failure, NoAnswer, Success};
        let now = Instant::now();
        let open = Circuit::Open { until: now + FIRST_OPEN, period: FIRST_OPEN };
        assert_eq!(after(Circuit::CLOSED, &[NoAnswer; 3], now), open);
        assert_eq!(after(Circuit::CLOSED, &[Failure; 100], now), open);
        assert!(after(Circuit::CLOSED, &[Failure; 99], now).is_closed());
        let mixed = [NoAnswer, NoAnswer, Failure, NoAnswer, NoAnswer, Success];
        assert_eq!(after(Circuit::CLOSED, &mixed, now), Circuit::CLOSED);
    }

    #[test]
    fn one_probe_decides_whether_it_closes() {
        let now = Instant::now();
        let open = after(Circuit::CLOSED, &[AttemptResult::NoAnswer; 3], now);
        assert_eq!(open.blocked_for(now), FIRST_OPEN);
        let later = now + FIRST_OPEN;
        assert_eq!(open.blocked_for(later), Duration::ZERO);
        let probing = open.start();
        assert!(probing.blocked_for(later) > Duration::ZERO, "there is one probe at a time");
        assert_eq!(probing.end(Some(AttemptResult::Success), later, 0.0), Circuit::CLOSED);
        let again = probing.end(Some(AttemptResult::Failure), later, 0.0);
        assert_eq!(again.blocked_for(later), FIRST_OPEN * 2);
        assert_eq!(probing.end(None, later, 0.0).blocked_for(later), Duration::ZERO);
    }

    #[test]
    fn late_results_of_earlier_attempts_do_not_extend_it() {
        let now = Instant::now();
        let open = after(Circuit::CLOSED, &[AttemptResult::NoAnswer; 3], now);
        assert_eq!(after(open, &[AttemptResult::NoAnswer; 5], now + Duration::from_secs(2)), open);
        assert_eq!(after(open, &[AttemptResult::Success], now), Circuit::CLOSED, "an endpoint that answers is fine");
    }

    proptest! {
        #[test]
        fn it_is_never_open_for_longer_than_its_bound(
            steps in prop::collection::vec((0_u8..4, 0_u64..100, -1.0_f64..1.0), 1..200),
        ) {
            let (mut circuit, mut now) = (Circuit::CLOSED, Instant::now());
            for (step, seconds, jitter) in steps {
                now += Duration::from_secs(seconds);
                if circuit.blocked_for(now).is_zero() {
                    circuit = circuit.start();
                }
                let result =
                    [Some(AttemptResult::Success), Some(AttemptResult::Failure), Some(AttemptResult::NoAnswer), None];
                circuit = circuit.end(result[usize::from(step)], now, jitter);
                prop_assert!(circuit.blocked_for(now) <= LONGEST_OPEN.mul_f64(1.2));
                prop_assert!(!matches!(circuit, Circuit::HalfOpen { .. }), "a probe that ended is over");
            }
        }
    }
}
