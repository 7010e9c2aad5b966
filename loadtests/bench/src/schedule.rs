//! The intended time of each request in the open model: a linear ramp, then phases of a constant rate. Pure arithmetic.
//!
//! The generator sleeps until the time of request `n`. A late request keeps its intended time, and its latency counts
//! from there.

use std::time::Duration;

const NANOS: u128 = 1_000_000_000;
/// Most phases of a schedule, so that it can be copied.
pub(crate) const MAX_PHASES: usize = 8;

/// A time at a constant rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Phase {
    rate_per_second: u64,
    hold_ns: u64,
}

/// A ramp from zero to the rate of the first phase, then the phases. Requests are numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schedule {
    ramp_ns: u64,
    /// Phases of no time at the end are unused.
    phases: [Phase; MAX_PHASES],
}

impl Schedule {
    /// A schedule of `rate_per_second` (at least 1), reached after `ramp` and held for `hold`.
    pub(crate) fn new(rate_per_second: u64, ramp: Duration, hold: Duration) -> Self {
        Self::with_phases(ramp, &[(rate_per_second, hold)])
    }

    /// A schedule of up to [`MAX_PHASES`] phases, each a rate per second (at least 1) and how long it is held; further
    /// ones are ignored. The ramp leads to the first rate.
    pub(crate) fn with_phases(ramp: Duration, phases: &[(u64, Duration)]) -> Self {
        let mut all = [Phase::default(); MAX_PHASES];
        for (phase, (rate_per_second, hold)) in all.iter_mut().zip(phases) {
            *phase = Phase { rate_per_second: (*rate_per_second).max(1), hold_ns: in_nanos(*hold) };
        }
        Self { ramp_ns: in_nanos(ramp), phases: all }
    }

    /// The intended time of request `number`, from the start of the schedule. A request after the end of the schedule
    /// is due as if the last phase went on.
    pub(crate) fn at(&self, number: u64) -> Duration {
        // Requests are counted in halves of a nanosecond, so that an odd ramp divides evenly.
        let mut left = 2 * u128::from(number) * NANOS;
        let (first, ramp) = (u128::from(self.phases[0].rate_per_second), u128::from(self.ramp_ns));
        // In the ramp n = rate t^2 / (2 ramp). It sends as many requests as half its time at the full rate.
        if left < first * ramp {
            return nanos((left * ramp / first).isqrt());
        }
        left -= first * ramp;
        let mut start = ramp;
        let mut phases = self.phases.iter().filter(|phase| phase.hold_ns > 0).peekable();
        while let Some(phase) = phases.next() {
            let rate = u128::from(phase.rate_per_second);
            let within = 2 * rate * u128::from(phase.hold_ns);
            if left < within || phases.peek().is_none() {
                return nanos(start + left / (2 * rate));
            }
            left -= within;
            start += u128::from(phase.hold_ns);
        }
        nanos(start)
    }

    /// Number of requests: all whose intended time is before the end.
    pub(crate) fn total(&self) -> u64 {
        let first = u128::from(self.phases[0].rate_per_second);
        let of_phase = |phase: &Phase| 2 * u128::from(phase.rate_per_second) * u128::from(phase.hold_ns);
        let held: u128 = self.phases.iter().map(of_phase).sum();
        // Rounded up, since the request at 0 is one.
        u64::try_from((first * u128::from(self.ramp_ns) + held).div_ceil(2 * NANOS)).unwrap_or(u64::MAX)
    }

    /// How long the ramp lasts.
    pub(crate) fn ramp(&self) -> Duration {
        Duration::from_nanos(self.ramp_ns)
    }

    /// How long the phases last.
    pub(crate) fn hold(&self) -> Duration {
        Duration::from_nanos(self.phases.iter().map(|phase| phase.hold_ns).sum())
    }

    /// Whether it has one rate after the ramp.
    pub(crate) fn is_steady(&self) -> bool {
        self.phases.iter().filter(|phase| phase.hold_ns > 0).count() <= 1
    }

    /// The rate per second of each phase, and how long it is held.
    pub(crate) fn phases(&self) -> impl Iterator<Item = (u64, Duration)> {
        let used = self.phases.iter().filter(|phase| phase.hold_ns > 0);
        used.map(|phase| (phase.rate_per_second, Duration::from_nanos(phase.hold_ns)))
    }

    /// The highest rate, per second.
    pub(crate) fn peak(&self) -> u64 {
        self.phases.iter().map(|phase| phase.rate_per_second).max().unwrap_or(1)
    }

    /// The rate aimed at `elapsed` after the start, per second.
    pub(crate) fn rate_at(&self, elapsed: Duration) -> u64 {
        let elapsed = in_nanos(elapsed);
        if elapsed < self.ramp_ns {
            let first = self.phases[0].rate_per_second;
            return u64::try_from(u128::from(first) * u128::from(elapsed) / u128::from(self.ramp_ns)).unwrap_or(first);
        }
        let mut ends = self.ramp_ns;
        for phase in &self.phases {
            ends += phase.hold_ns;
            if elapsed < ends {
                return phase.rate_per_second;
            }
        }
        0
    }
}

fn in_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
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

    #[test]
    fn phases_follow_each_other_at_their_rates() {
        let spike =
            Schedule::with_phases(seconds(2), &[(1_000, seconds(10)), (20_000, seconds(5)), (500, seconds(10))]);
        assert_eq!(spike.total(), 1_000 + 10_000 + 100_000 + 5_000);
        assert_eq!((spike.peak(), spike.ramp(), spike.hold()), (20_000, seconds(2), seconds(25)));
        assert_eq!(spike.at(11_000), seconds(12), "the first of the spike");
        assert_eq!(spike.at(31_000), seconds(13));
        assert_eq!(spike.at(111_000), seconds(17), "the first after it");
        assert_eq!(spike.at(111_500), seconds(18));
        let rates = [1, 11, 12, 16, 17, 26, 27].map(|at| spike.rate_at(seconds(at)));
        assert_eq!(rates, [500, 1_000, 20_000, 20_000, 500, 500, 0]);
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
