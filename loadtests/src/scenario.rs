//! The named scenarios, what each must reach, and when a run is given up. Pure: figures in, verdicts out.
//!
//! What does not live here: producing the load (generator), and the command line (cli).

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::schedule::Schedule;

/// A named load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// 100/s for 30 s: does it work at all.
    Smoke,
    /// 1,000/s for 2 min.
    Baseline,
    /// 10,000/s for 5 min after a ramp of 1 min.
    Full,
}

impl Scenario {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Baseline => "baseline",
            Self::Full => "full",
        }
    }

    /// Rate per second, ramp, time at the rate, organizations, connections.
    pub fn shape(self) -> (u64, Duration, Duration, usize, usize) {
        let seconds = Duration::from_secs;
        match self {
            Self::Smoke => (100, seconds(0), seconds(30), 10, 32),
            Self::Baseline => (1_000, seconds(10), seconds(120), 1_000, 128),
            Self::Full => (10_000, seconds(60), seconds(300), 1_000, 256),
        }
    }

    /// What must be reached.
    pub fn thresholds(self) -> Thresholds {
        match self {
            Self::Smoke => Thresholds {
                max_error_percent: 0.0,
                p95_ms: Some(50.0),
                visible_p95_ms: Some(1_000.0),
                ..Thresholds::none()
            },
            Self::Baseline => Thresholds {
                max_error_percent: 0.01,
                p95_ms: Some(3.0),
                visible_p95_ms: Some(15.0),
                ..Thresholds::none()
            },
            Self::Full => Thresholds {
                max_error_percent: 0.01,
                p95_ms: Some(10.0),
                p99_ms: Some(30.0),
                max_ms: Some(1_000.0),
                visible_p95_ms: Some(30.0),
            },
        }
    }
}

/// How requests are paced.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// Fixed intended times, whatever the system does.
    Open(Schedule),
    /// As many as are answered: every connection sends its next request when it has its reply.
    Closed {
        /// Time at the start that is not counted.
        warm_up: Duration,
        /// Time that is counted.
        measured: Duration,
    },
}

impl Pace {
    /// From when on requests are counted.
    pub fn measured_from(&self) -> Duration {
        match self {
            Self::Open(schedule) => schedule.ramp(),
            Self::Closed { warm_up, .. } => *warm_up,
        }
    }
}

/// One load, whatever it is pointed at.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// When to send.
    pub pace: Pace,
    /// Time that is counted.
    pub measured: Duration,
    /// Connections, and so the bound of requests in flight.
    pub connections: usize,
    /// Exact size of each payload's JSON text.
    pub payload_bytes: usize,
    /// Organizations that take turns.
    pub organizations: usize,
    /// Whether each event has a `dedup_id`.
    pub keyed: bool,
    /// How long a reply may take.
    pub timeout: Duration,
    /// Threads that drive the connections.
    pub client_threads: usize,
}

/// Bars a run must reach; `None` asks nothing.
#[derive(Debug, Clone, Copy, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Thresholds {
    pub max_error_percent: f64,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub max_ms: Option<f64>,
    pub visible_p95_ms: Option<f64>,
}

impl Thresholds {
    /// Asks for one thing: no more than 1 % errors.
    pub fn none() -> Self {
        Self { max_error_percent: 1.0, p95_ms: None, p99_ms: None, max_ms: None, visible_p95_ms: None }
    }
}

/// One bar and what was found.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// The bar, in words.
    pub bar: String,
    /// What was found, in words.
    pub found: String,
    /// Whether the bar was reached.
    pub passed: bool,
}

impl Check {
    /// `found` may be at most `bar`. Not measured is not reached.
    pub fn at_most(name: &'static str, bar: f64, found: Option<f64>, unit: &str) -> Self {
        Self {
            name,
            bar: format!("<= {bar} {unit}"),
            found: found.map_or_else(|| "not measured".to_owned(), |found| format!("{found:.3} {unit}")),
            passed: found.is_some_and(|found| found <= bar),
        }
    }
}

/// One second of a run, as the stop rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Second {
    /// Requests that ended.
    pub ended: u64,
    /// Of them, not accepted.
    pub errors: u64,
    /// 95th percentile of their latency.
    pub p95_ms: f64,
    /// Requests sent or due and without an end.
    pub waiting: u64,
}

/// Gives a run up when it has been hopeless for ten seconds: the figures would say nothing, and the machine is not ours
/// alone.
#[derive(Debug, Default)]
pub struct StopRule {
    slow_seconds: u32,
    failing_seconds: u32,
}

impl StopRule {
    const SECONDS: u32 = 10;
    const P95_MS: f64 = 200.0;

    /// Takes the next second; gives the reason when the run is to end.
    pub fn observe(&mut self, second: &Second) -> Option<&'static str> {
        let stalled = second.ended == 0 && second.waiting > 0;
        let slow = stalled || (second.ended > 0 && second.p95_ms > Self::P95_MS);
        let failing = second.errors * 100 > second.ended;
        self.slow_seconds = if slow { self.slow_seconds + 1 } else { 0 };
        self.failing_seconds = if failing { self.failing_seconds + 1 } else { 0 };
        if self.failing_seconds >= Self::SECONDS {
            Some("more than 1 % errors for 10 s")
        } else if self.slow_seconds >= Self::SECONDS {
            Some("p95 over 200 ms for 10 s")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Second = Second { ended: 100, errors: 1, p95_ms: 200.0, waiting: 5 };
    const SLOW: Second = Second { p95_ms: 201.0, ..GOOD };
    const FAILING: Second = Second { errors: 2, ..GOOD };
    const STALLED: Second = Second { ended: 0, errors: 0, p95_ms: 0.0, waiting: 5 };
    const IDLE: Second = Second { waiting: 0, ..STALLED };

    #[test]
    fn ten_bad_seconds_in_a_row_end_a_run() {
        for bad in [SLOW, FAILING, STALLED] {
            let mut rule = StopRule::default();
            for _ in 0..9 {
                assert_eq!(rule.observe(&bad), None);
            }
            assert!(rule.observe(&bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn a_good_second_starts_the_count_again_and_an_idle_one_is_not_bad() {
        let mut rule = StopRule::default();
        for n in 0..100 {
            let second = if n % 10 == 9 { GOOD } else { SLOW };
            assert_eq!(rule.observe(&second), None);
            assert_eq!(StopRule::default().observe(&IDLE), None);
        }
        let mut rule = StopRule::default();
        assert!((0..100).all(|_| rule.observe(&IDLE).is_none()));
    }

    #[test]
    fn what_was_not_measured_did_not_reach_its_bar() {
        assert!(!Check::at_most("visible p95", 30.0, None, "ms").passed);
        assert!(Check::at_most("p95", 10.0, Some(10.0), "ms").passed);
        assert!(!Check::at_most("p95", 10.0, Some(10.01), "ms").passed);
    }
}
