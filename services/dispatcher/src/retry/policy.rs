//! Retry policy: whether and when a delivery is attempted again, from the delays of its endpoint, jitter, and the
//! receiver's `Retry-After`.
//!
//! Pure: takes the jitter.

use std::time::Duration;

/// Delays after the first, second, … failed attempt if an endpoint has none of its own, seconds: five attempts in all.
pub(crate) const DEFAULT_DELAYS_SECONDS: [u32; 4] = [30, 120, 600, 3600];
/// `Retry-After` extends a delay at most to this.
pub(crate) const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(3600);
/// A delay varies by this share up and down, so that attempts that failed together are not retried together.
const JITTER: f64 = 0.2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReceiverAnswer {
    /// HTTP status; `None`: there was no response.
    pub status: Option<u16>,
    /// Value of `Retry-After`.
    pub retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryDecision {
    Delivered,
    RetryIn(Duration),
    /// No attempt is left.
    Exhausted,
    /// The receiver is gone for good (410): the endpoint is disabled.
    Gone,
}

/// Decides what follows attempt number `attempt` (1 is the first). `jitter` is random, from -1 to 1.
pub(crate) fn after_attempt(
    delays_seconds: &[u32],
    attempt: u32,
    answer: ReceiverAnswer,
    jitter: f64,
) -> RetryDecision {
    match answer.status {
        Some(200..=299) => return RetryDecision::Delivered,
        Some(410) => return RetryDecision::Gone,
        // Redirects are retried too: following one would send signed events to an address that nobody configured.
        _ => {}
    }
    let Some(delay) = (attempt as usize).checked_sub(1).and_then(|index| delays_seconds.get(index)) else {
        return RetryDecision::Exhausted;
    };
    let factor = 1.0 + JITTER * jitter.clamp(-1.0, 1.0);
    let delay = Duration::from_secs_f64(f64::from(*delay) * factor);
    let requested = answer.retry_after.map_or(Duration::ZERO, |requested| requested.min(RETRY_AFTER_LIMIT));
    RetryDecision::RetryIn(delay.max(requested))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status(status: u16) -> ReceiverAnswer {
        ReceiverAnswer { status: Some(status), retry_after: None }
    }

    #[test]
    fn the_default_schedule_is_five_attempts() {
        let seconds = |attempt| match after_attempt(&DEFAULT_DELAYS_SECONDS, attempt, status(500), 0.0) {
            RetryDecision::RetryIn(delay) => Some(delay.as_secs()),
            _ => None,
        };
        assert_eq!((1..=6).map(seconds).collect::<Vec<_>>(), [Some(30), Some(120), Some(600), Some(3600), None, None]);
        assert_eq!(after_attempt(&[], 1, status(500), 0.0), RetryDecision::Exhausted);
    }

    #[test]
    fn only_2xx_delivers_and_only_410_disables() {
        for code in [200, 201, 204, 299] {
            assert_eq!(after_attempt(&[1], 1, status(code), 0.0), RetryDecision::Delivered, "{code}");
        }
        for code in [100, 199, 301, 302, 307, 400, 401, 404, 429, 500, 503] {
            assert_eq!(
                after_attempt(&[1], 1, status(code), 0.0),
                RetryDecision::RetryIn(Duration::from_secs(1)),
                "{code}"
            );
        }
        assert_eq!(after_attempt(&[1], 1, status(410), 0.0), RetryDecision::Gone);
        assert_eq!(
            after_attempt(&[1], 1, ReceiverAnswer { status: None, retry_after: None }, 0.0),
            RetryDecision::RetryIn(Duration::from_secs(1))
        );
    }

    #[test]
    fn retry_after_extends_a_delay_up_to_an_hour() {
        let asked = |seconds| ReceiverAnswer { status: Some(429), retry_after: Some(Duration::from_secs(seconds)) };
        assert_eq!(after_attempt(&[30], 1, asked(90), 0.0), RetryDecision::RetryIn(Duration::from_secs(90)));
        assert_eq!(after_attempt(&[30], 1, asked(1), 0.0), RetryDecision::RetryIn(Duration::from_secs(30)));
        assert_eq!(after_attempt(&[30], 1, asked(86_400), 0.0), RetryDecision::RetryIn(Duration::from_secs(3600)));
        assert_eq!(after_attempt(&[7200], 1, asked(86_400), 0.0), RetryDecision::RetryIn(Duration::from_secs(7200)));
    }

    proptest! {
        #[test]
        fn jitter_stays_within_a_fifth(delay in 1_u32..100_000, jitter in -2.0_f64..2.0) {
            let decision = after_attempt(&[delay], 1, status(500), jitter);
            let RetryDecision::RetryIn(got) = decision else { panic!("an attempt is left") };
            let wanted = f64::from(delay);
            prop_assert!(got.as_secs_f64() >= wanted * 0.8 - 1e-6 && got.as_secs_f64() <= wanted * 1.2 + 1e-6);
        }

        #[test]
        fn a_failing_delivery_has_one_attempt_more_than_delays(
            delays in prop::collection::vec(1_u32..100_000, 0..8),
            answers in prop::collection::vec(
                (prop::option::of(100_u16..600), prop::option::of(0_u64..200_000), -1.0_f64..1.0),
                9,
            ),
        ) {
            for (attempt, (status, asked, jitter)) in (1_u32..).zip(answers) {
                let answer = ReceiverAnswer { status, retry_after: asked.map(Duration::from_secs) };
                let next = after_attempt(&delays, attempt, answer, jitter);
                let delay = delays.get(attempt as usize - 1).map(|delay| f64::from(*delay));
                match (status, delay, next) {
                    (Some(200..=299), _, RetryDecision::Delivered) | (Some(410), _, RetryDecision::Gone) => break,
                    (_, None, RetryDecision::Exhausted) => {
                        prop_assert_eq!(attempt as usize, delays.len() + 1);
                        break;
                    }
                    (_, Some(delay), RetryDecision::RetryIn(got)) => {
                        let asked = asked.map_or(0.0, |asked| (asked as f64).min(RETRY_AFTER_LIMIT.as_secs_f64()));
                        prop_assert!(got.as_secs_f64() + 1e-6 >= (delay * 0.8).max(asked));
                        prop_assert!(got.as_secs_f64() - 1e-6 <= (delay * 1.2).max(asked));
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
