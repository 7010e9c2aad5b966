//! When a call is tried again. Pure: the caller gives the elapsed time and a random number.

use std::time::Duration;

use crate::error::Error;

/// How long a call goes on after failures that a retry can help with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    /// Upper bound of the first pause. Each further one is twice as long.
    pub first_pause: Duration,
    /// Upper bound of every pause, unless the server asks for a longer one.
    pub longest_pause: Duration,
    /// No attempt starts later than this after the first one. Zero: there are no retries.
    pub budget: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(10),
            // More than the window of a rate limit, which is the longest `Retry-After` that Triggers sends for one.
            budget: Duration::from_secs(90),
        }
    }
}

impl RetryPolicy {
    pub(crate) const fn retries(&self) -> bool {
        !self.budget.is_zero()
    }

    /// The pause before the next attempt; `None`: the call fails with `error`. `attempt` counts from 1, `elapsed` is
    /// the time since the first attempt started, and `random` is in 0..1.
    pub(crate) fn pause(&self, attempt: u32, elapsed: Duration, error: &Error, random: f64) -> Option<Duration> {
        if !self.retries() || !error.is_retryable() {
            return None;
        }
        // The clients that the server refused at one moment must not come back at one moment: the jitter is added to
        // the pause that the server asks for.
        let pause = error.retry_after().unwrap_or_default().checked_add(self.jittered(attempt, random))?;
        (elapsed.checked_add(pause)? <= self.budget).then_some(pause)
    }

    /// Between a half and the whole of the upper bound.
    fn jittered(&self, attempt: u32, random: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let most = self.first_pause.saturating_mul(doubled).min(self.longest_pause);
        most.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::tests::{problem, timed_out};

    const POLICY: RetryPolicy = RetryPolicy {
        first_pause: Duration::from_millis(100),
        longest_pause: Duration::from_secs(1),
        budget: Duration::from_secs(60),
    };

    fn pause(attempt: u32, elapsed_seconds: u64, error: &Error, random: f64) -> Option<Duration> {
        POLICY.pause(attempt, Duration::from_secs(elapsed_seconds), error, random)
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        for (attempt, most) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (40, 1000), (u32::MAX, 1000)] {
            let most = Duration::from_millis(most);
            assert_eq!(pause(attempt, 0, &timed_out(), 1.0), Some(most), "attempt {attempt}");
            assert_eq!(pause(attempt, 0, &timed_out(), 0.0), Some(most / 2), "attempt {attempt}");
        }
    }

    #[test]
    fn the_server_may_ask_for_a_longer_pause() {
        let limited = problem(429, "rate_limit_exceeded", Some(7));
        let seconds = |seconds: u64| Some(Duration::from_millis(seconds * 1000 + 100));
        assert_eq!(pause(1, 0, &limited, 1.0), seconds(7), "Retry-After is the least pause, and jitter is added");
        assert_eq!(pause(1, 52, &limited, 1.0), seconds(7));
        assert_eq!(pause(1, 53, &limited, 1.0), None, "the call fails at once if the pause is longer than the budget");
        assert_eq!(pause(1, 0, &problem(503, "unavailable", Some(u64::MAX)), 1.0), None);
    }

    #[test]
    fn the_budget_ends_the_retries() {
        assert!(pause(9, 59, &timed_out(), 0.0).is_some());
        assert_eq!(pause(9, 60, &timed_out(), 0.0), None);
        let without = RetryPolicy { budget: Duration::ZERO, ..POLICY };
        assert_eq!(without.pause(1, Duration::ZERO, &timed_out(), 0.0), None, "a budget of zero: no retries");
    }

    #[test]
    fn what_a_retry_cannot_help_with_fails_at_once() {
        for status in [400, 401, 403, 404, 409, 413, 415, 422, 500, 501] {
            assert_eq!(pause(1, 0, &problem(status, "a_code", Some(1)), 0.0), None, "{status}");
        }
        for status in [408, 429, 502, 503, 504] {
            assert!(pause(1, 0, &problem(status, "a_code", None), 0.0).is_some(), "{status}");
        }
        assert_eq!(pause(1, 0, &Error::Invalid("the URL".to_owned()), 0.0), None);
    }
}
