//! The places on the rate limit of an endpoint, which all dispatchers share: the next free one, and the current rate.
//! Pure: takes `now`. `conditions` stores it.
//!
//! The current rate halves when the endpoint asks for fewer requests (429, 503) or does not answer, at most once a
//! second. With each success it grows by a twentieth of the limit per second.

use std::time::Duration;

use super::rate::RateFeedback;

/// A lease has the places of this time, at least one.
const SLICE_SECONDS: f64 = 0.25;
/// No place is leased that is further ahead.
const MAX_AHEAD_US: i64 = 1_000_000;
/// Between two halvings: attempts that were in flight together fail together.
const HALVING_US: i64 = 1_000_000;
/// The lowest rate, of the limit.
const LEAST_SHARE: f64 = 1.0 / 16.0;
/// What a second of successes adds, of the limit.
const GAIN_PER_SECOND: f64 = 0.05;

/// The state of the row. Times are microseconds since the Unix epoch, of the database.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SharedRate {
    pub next_free_us: i64,
    /// The current rate, of the limit.
    pub share: f64,
    /// `None`: never.
    pub reduced_us: Option<i64>,
}

/// Places that follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lease {
    pub starts_after: Duration,
    pub count: u32,
    /// Per second.
    pub rate: f64,
}

impl Lease {
    pub(super) fn interval(self) -> Duration {
        Duration::from_secs_f64(1.0 / self.rate)
    }
}

impl SharedRate {
    #[cfg(test)]
    pub(super) fn new(now_us: i64) -> Self {
        Self { next_free_us: now_us, share: 1.0, reduced_us: None }
    }

    /// Leases the next places of a limit of so many per second.
    ///
    /// # Errors
    /// They are too far ahead: ask again after this time.
    pub(crate) fn lease(&mut self, limit: u32, feedback: RateFeedback, now_us: i64) -> Result<Lease, Duration> {
        self.adapt(limit, feedback, now_us);
        let rate = f64::from(limit.max(1)) * self.share;
        let start_us = self.next_free_us.max(now_us);
        let ahead_us = start_us - now_us;
        if ahead_us > MAX_AHEAD_US {
            return Err(micros(ahead_us - MAX_AHEAD_US));
        }
        // A limit is small: this fits.
        let count = (rate * SLICE_SECONDS).round().max(1.0) as u32;
        // Rounded up, or many leases would add up to a higher rate.
        self.next_free_us = start_us + (f64::from(count) * 1e6 / rate).ceil() as i64;
        Ok(Lease { starts_after: micros(ahead_us), count, rate })
    }

    fn adapt(&mut self, limit: u32, feedback: RateFeedback, now_us: i64) {
        self.share = self.share.clamp(LEAST_SHARE, 1.0);
        if feedback.is_setback {
            if self.reduced_us.is_none_or(|at| now_us - at >= HALVING_US) {
                self.share = (self.share / 2.0).max(LEAST_SHARE);
                self.reduced_us = Some(now_us);
            }
            return;
        }
        let seconds = f64::from(feedback.successes) / (f64::from(limit.max(1)) * self.share);
        self.share = (self.share + GAIN_PER_SECOND * seconds).min(1.0);
    }
}

fn micros(us: i64) -> Duration {
    Duration::from_micros(u64::try_from(us).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000;
    const SETBACK: RateFeedback = RateFeedback { is_setback: true, successes: 0 };

    fn successes(successes: u32) -> RateFeedback {
        RateFeedback { is_setback: false, successes }
    }

    #[test]
    fn setbacks_halve_the_rate_and_successes_bring_it_back() {
        let mut shared = SharedRate::new(0);
        let mut rate = |feedback, at| shared.lease(100, feedback, at).unwrap().rate;
        assert_eq!(rate(RateFeedback::default(), 0), 100.0);
        assert_eq!(rate(SETBACK, 2 * SECOND), 50.0);
        assert_eq!(rate(SETBACK, 2 * SECOND + SECOND / 2), 50.0, "these were in flight together");
        assert_eq!(rate(SETBACK, 4 * SECOND), 25.0);
        assert_eq!(rate(successes(25), 6 * SECOND), 30.0, "a second of successes");
        assert_eq!(rate(successes(10_000), 8 * SECOND), 100.0, "the limit holds");
        let lowest = (10..20).map(|at| rate(SETBACK, at * SECOND)).last();
        assert_eq!(lowest, Some(6.25));
    }

    #[test]
    fn places_far_ahead_are_not_leased() {
        let mut shared = SharedRate::new(0);
        let lease = |shared: &mut SharedRate, at| shared.lease(1, RateFeedback::default(), at);
        assert_eq!(lease(&mut shared, 0), Ok(Lease { starts_after: Duration::ZERO, count: 1, rate: 1.0 }));
        assert_eq!(lease(&mut shared, 0).map(|lease| lease.starts_after), Ok(Duration::from_secs(1)));
        assert_eq!(lease(&mut shared, 0), Err(Duration::from_secs(1)));
        assert!(lease(&mut shared, SECOND).is_ok());
    }

    proptest! {
        #[test]
        fn leases_never_overlap(
            limit in 1_u32..=1000,
            asks in prop::collection::vec((0_i64..3 * SECOND, any::<bool>(), 0_u32..100), 1..100),
        ) {
            let (mut shared, mut now, mut free_from) = (SharedRate::new(0), 0, 0.0_f64);
            for (later, is_setback, successes) in asks {
                now += later;
                let Ok(lease) = shared.lease(limit, RateFeedback { is_setback, successes }, now) else { continue };
                let start = now as f64 + lease.starts_after.as_micros() as f64;
                prop_assert!(start + 0.5 >= free_from && lease.count >= 1 && lease.rate <= f64::from(limit));
                free_from = start + f64::from(lease.count) * 1e6 / lease.rate;
            }
        }
    }
}
