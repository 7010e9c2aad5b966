//! The intended time of each request in the open model: a linear ramp, then a constant rate. Pure arithmetic.
//!
//! The generator sleeps until the time of request `n`. A late request keeps its intended time, and its latency counts
//! from there.

use std::time::Duration;

const NANOS: u128 = 1_000_000_000;

/// A ramp from zero to `rate_per_second`, then the constant rate. Requests are numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schedule {
    rate_per_second: u64,
    ramp_ns: u128,
    hold_ns: u128,
}

impl Schedule {
    /// A schedule of `rate_per_second` (at least 1), reached after `ramp` and held for `hold`.
    pub(crate) fn new(rate_per_second: u64, ramp: Duration, hold: Duration) -> Self {
        Self { rate_per_second: rate_per_second.max(1), ramp_ns: ramp.as_nanos(), hold_ns: hold.as_nanos() }
    }

    /// The intended time of request `number`, from the start of the schedule.
    pub(crate) fn at(&self, number: u64) -> Duration {
        let (n, rate) = (u128::from(number), u128::from(self.rate_per_second));
        // In the ramp n = rate t^2 / (2 ramp). After it the ramp has delayed everything by half its length.
        let nanos = if 2 * n * NANOS < rate * self.ramp_ns {
            (2 * n * self.ramp_ns * NANOS / rate).isqrt()
        } else {
            self.ramp_ns / 2 + n * NANOS / rate
        };
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Number of requests: all whose intended time is before the end.
    pub(crate) fn total(&self) -> u64 {
        // In half nanoseconds, so that an odd ramp divides evenly; rounded up, since the request at 0 is one.
        let full_rate = 2 * self.hold_ns + self.ramp_ns;
        u64::try_from((u128::from(self.rate_per_second) * full_rate).div_ceil(2 * NANOS)).unwrap_or(u64::MAX)
    }

    /// How long the ramp lasts.
    pub(crate) fn ramp(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.ramp_ns).unwrap_or(u64::MAX))
    }

    /// The rate aimed at `elapsed` after the start, per second.
    pub(crate) fn rate_at(&self, elapsed: Duration) -> u64 {
        let elapsed = elapsed.as_nanos();
        if elapsed >= self.ramp_ns {
            return if elapsed < self.ramp_ns + self.hold_ns { self.rate_per_second } else { 0 };
        }
        u64::try_from(u128::from(self.rate_per_second) * elapsed / self.ramp_ns).unwrap_or(self.rate_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_constant_rate_sends_at_even_intervals() {
        let schedule = Schedule::new(100, Duration::ZERO, seconds(30));
        assert_eq!(schedule.total(), 3000);
        assert_eq!(schedule.at(0), Duration::ZERO);
        assert_eq!(schedule.at(1), Duration::from_millis(10));
        assert_eq!(schedule.at(2999), Duration::from_millis(29_990));
    }

    #[test]
    fn a_ramp_delays_by_half_its_length_without_a_jump() {
        let schedule = Schedule::new(10_000, seconds(60), seconds(300));
        assert_eq!(schedule.total(), 3_300_000);
        assert_eq!(schedule.at(300_000), seconds(60));
        // A quarter of the ramp's requests are due at half its time.
        assert_eq!(schedule.at(75_000), seconds(30));
        assert_eq!(schedule.at(3_299_999), seconds(360) - Duration::from_micros(100));
        assert_eq!(schedule.rate_at(seconds(30)), 5_000);
        assert_eq!(schedule.rate_at(seconds(61)), 10_000);
        assert_eq!(schedule.rate_at(seconds(360)), 0);
    }

    proptest! {
        #[test]
        fn times_increase_and_the_total_ends_before_the_end(
            rate in 1_u64..50_000,
            ramp_ms in 0_u64..5_000,
            hold_ms in 1_u64..5_000,
            picks in proptest::collection::vec(0.0_f64..1.0, 20),
        ) {
            let (ramp, hold) = (Duration::from_millis(ramp_ms), Duration::from_millis(hold_ms));
            let schedule = Schedule::new(rate, ramp, hold);
            let total = schedule.total();
            for pick in picks {
                let n = (pick * total as f64) as u64;
                prop_assert!(schedule.at(n) <= schedule.at(n + 1));
            }
            if total > 0 {
                prop_assert!(schedule.at(total - 1) < ramp + hold);
            }
            // Rounding down to a nanosecond may put the first one outside just before the end.
            prop_assert!(schedule.at(total) + Duration::from_nanos(1) >= ramp + hold);
        }
    }
}
