//! The named scenarios with their thresholds, and the rule that stops a hopeless run. Pure.
//!
//! The load is produced in `generator`; the command line is in `cli`.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::schedule::Schedule;
use crate::variation::{PayloadBytes, Shares};

/// A named load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// 100/s for 30 s: a smoke test.
    Smoke,
    /// 1,000/s for 2 min.
    Baseline,
    /// 5,000/s for 3 min after a ramp of 30 s.
    Peak,
    /// Eight steps of 30 s, from 2,000/s to 16,000/s: where does it break? The run stops there.
    Stress,
    /// 10,000/s for 5 min after a ramp of 1 min.
    Full,
    /// 15,000/s for 5 min after a ramp of 1 min.
    High,
    /// 1,000/s, 20,000/s for 10 s, 1,000/s: how fast does it recover?
    Spike,
    /// 30,000/s for 1 min: what cannot be accepted must be refused.
    Overload,
    /// 4,000 writes and 1,000 reads a second for 2 min; organizations have different shares (--preload-events N).
    Mixed,
    /// 1,000 requests/s of 100 events each for 20 s, counted on the log: stop the materializer before.
    Batch,
    /// The log is filled, and then a materializer writes it: step s8 of `all`, on a system of its own.
    Catchup,
    /// Webhooks after acceptance, 2,000/s: the command `deliver`, one round.
    Deliver,
    /// 10,000 idle connections, 1,000 long polls, 1,000 requests at once; half-sent bodies and slow readers.
    Connections,
    /// 2,000/s for 30 min: do memory and latency stay flat?
    Soak,
}

/// The load of a scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub schedule: Schedule,
    pub organizations: usize,
    pub connections: usize,
    /// Whether ten bad seconds stop the run.
    pub stops: bool,
    /// As in [`Load`].
    pub event_types: usize,
    pub batch_events: usize,
    pub shares: Shares,
    pub reads_per_second: u64,
}

impl Shape {
    /// A load of writes, all of one type.
    pub(crate) fn new(schedule: Schedule, organizations: usize, connections: usize) -> Self {
        Self {
            schedule,
            organizations,
            connections,
            stops: true,
            event_types: 1,
            batch_events: 1,
            shares: Shares::Even,
            reads_per_second: 0,
        }
    }

    /// 80 % writes and 20 % reads, of several types and organizations with different shares.
    pub(crate) fn mixed(schedule: Schedule) -> Self {
        let reads_per_second = schedule.peak() / 4;
        Self { event_types: 4, shares: Shares::Weighted, reads_per_second, ..Self::new(schedule, 1_000, 256) }
    }
}

impl Scenario {
    /// Its name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Baseline => "baseline",
            Self::Peak => "peak",
            Self::Stress => "stress",
            Self::Full => "full",
            Self::High => "high",
            Self::Spike => "spike",
            Self::Overload => "overload",
            Self::Mixed => "mixed",
            Self::Batch => "batch",
            Self::Catchup => "catchup",
            Self::Deliver => "deliver",
            Self::Connections => "connections",
            Self::Soak => "soak",
        }
    }

    pub(crate) fn shape(self) -> Shape {
        let seconds = Duration::from_secs;
        let steady = |rate, ramp, hold, organizations, connections| {
            Shape::new(Schedule::new(rate, seconds(ramp), seconds(hold)), organizations, connections)
        };
        match self {
            Self::Smoke => steady(100, 0, 30, 10, 32),
            Self::Baseline => steady(1_000, 10, 120, 1_000, 128),
            Self::Peak => steady(5_000, 30, 180, 1_000, 256),
            Self::Stress => {
                let steps = [2_000, 4_000, 6_000, 8_000, 10_000, 12_000, 14_000, 16_000];
                let phases = steps.map(|rate| (rate, seconds(30)));
                Shape { schedule: Schedule::with_phases(seconds(10), &phases), ..steady(1, 0, 1, 1_000, 256) }
            }
            Self::Full => steady(10_000, 60, 300, 1_000, 256),
            Self::High => steady(15_000, 60, 300, 1_000, 512),
            Self::Spike => Shape { schedule: spike(), stops: false, ..steady(1, 0, 1, 1_000, 2_000) },
            Self::Overload => Shape { stops: false, ..steady(30_000, 5, 60, 1_000, 4_000) },
            Self::Mixed => Shape::mixed(Schedule::new(4_000, seconds(10), seconds(120))),
            Self::Batch => Shape { batch_events: 100, ..steady(1_000, 5, 20, 1_000, 64) },
            Self::Deliver => steady(2_000, 5, 20, 50, 128),
            // Neither has a rate; the options of the load that it uses have these defaults.
            Self::Catchup | Self::Connections => steady(10_000, 5, 20, 1_000, 256),
            Self::Soak => steady(2_000, 30, 1_800, 1_000, 128),
        }
    }

    pub(crate) fn thresholds(self) -> Thresholds {
        match self {
            Self::Smoke => Thresholds {
                max_error_percent: 0.0,
                p95_ms: Some(50.0),
                visible_p95_ms: Some(1_000.0),
                ..Thresholds::none()
            },
            Self::Baseline | Self::Soak => Thresholds {
                max_error_percent: 0.01,
                p95_ms: Some(3.0),
                visible_p95_ms: Some(15.0),
                ..Thresholds::none()
            },
            Self::Peak | Self::Full => Thresholds {
                max_error_percent: 0.01,
                p95_ms: Some(10.0),
                p99_ms: Some(30.0),
                max_ms: Some(1_000.0),
                visible_p95_ms: Some(30.0),
                ..Thresholds::none()
            },
            Self::Mixed => Thresholds {
                max_error_percent: 0.01,
                read_p95_ms: Some(5.0),
                read_p99_ms: Some(20.0),
                ..Thresholds::none()
            },
            Self::High => {
                Thresholds { max_error_percent: 0.01, p95_ms: Some(50.0), p99_ms: Some(200.0), ..Thresholds::none() }
            }
            Self::Stress | Self::Batch | Self::Catchup | Self::Deliver | Self::Connections => Thresholds::none(),
            // Refusing is right here.
            Self::Spike | Self::Overload => Thresholds { max_error_percent: 100.0, ..Thresholds::none() },
        }
    }
}

/// Rate of the spike and before and after it, and how long each lasts.
fn spike() -> Schedule {
    let seconds = Duration::from_secs;
    Schedule::with_phases(seconds(5), &[(1_000, seconds(30)), (20_000, SPIKE_FOR), (1_000, seconds(30))])
}

/// When the spike ends, seconds from the start of the run.
pub(crate) const SPIKE_ENDS: Duration = Duration::from_secs(5 + 30 + SPIKE_FOR.as_secs());
const SPIKE_FOR: Duration = Duration::from_secs(10);

/// How requests are paced.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// At fixed times, whatever the system does (open model).
    Open(Schedule),
    /// Each connection sends its next request after the reply to the last one (closed loop).
    Closed {
        /// Time at the start that is not measured.
        warm_up: Duration,
        measured: Duration,
    },
}

impl Pace {
    /// Start of the measured time.
    pub(crate) fn measured_from(&self) -> Duration {
        match self {
            Self::Open(schedule) => schedule.ramp(),
            Self::Closed { warm_up, .. } => *warm_up,
        }
    }
}

/// A load, independent of its target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub pace: Pace,
    pub measured: Duration,
    /// Connections: the maximum number of requests in flight.
    pub connections: usize,
    /// Size of the JSON text of each payload.
    pub payload_bytes: PayloadBytes,
    /// Number of event types.
    pub event_types: usize,
    /// Events of one request; 1 uses the route for single events.
    pub batch_events: usize,
    /// Number of organizations, which are used in turns.
    pub organizations: usize,
    /// Whether five groups of them get 10, 3, 2, 1 and 1 of 17 requests.
    pub shares: Shares,
    /// Whether each event has a `dedup_id`.
    pub keyed: bool,
    /// Timeout of a request.
    pub timeout: Duration,
    /// Threads that drive the connections.
    pub client_threads: usize,
    /// Whether ten bad seconds stop the run.
    pub stops: bool,
    /// Reads a second beside the requests, of the inbox of the last organization.
    pub reads_per_second: u64,
    /// Events that are put into that inbox before the run.
    pub preload_events: u64,
}

/// Thresholds of a run; `None` is not checked.
#[derive(Debug, Clone, Copy, Serialize)]
#[allow(missing_docs, reason = "the names are clear")]
pub(crate) struct Thresholds {
    pub max_error_percent: f64,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub max_ms: Option<f64>,
    pub visible_p95_ms: Option<f64>,
    /// Of each kind of reads.
    pub read_p95_ms: Option<f64>,
    pub read_p99_ms: Option<f64>,
}

impl Thresholds {
    /// Only one: at most 1 % errors.
    pub(crate) fn none() -> Self {
        Self {
            max_error_percent: 1.0,
            p95_ms: None,
            p99_ms: None,
            max_ms: None,
            visible_p95_ms: None,
            read_p95_ms: None,
            read_p99_ms: None,
        }
    }
}

/// A threshold and the figure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    pub name: &'static str,
    /// The threshold, as text.
    pub threshold: String,
    /// The figure, as text.
    pub found: String,
    /// Whether the threshold is met.
    pub passed: bool,
}

impl Check {
    /// `found` must be at most `threshold`. A missing figure fails.
    pub(crate) fn at_most(name: &'static str, threshold: f64, found: Option<f64>, unit: &str) -> Self {
        Self {
            name,
            threshold: format!("<= {threshold} {unit}"),
            found: found.map_or_else(|| "not measured".to_owned(), |found| format!("{found:.3} {unit}")),
            passed: found.is_some_and(|found| found <= threshold),
        }
    }
}

/// One second of a run, for the stop rule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Second {
    pub finished: u64,
    /// Finished requests that were not accepted.
    pub errors: u64,
    /// 95th percentile of their latency.
    pub p95_ms: f64,
    /// Requests in flight or due.
    pub waiting: u64,
}

/// Stops a run after ten seconds of stalls, high latency or errors: its figures would be meaningless.
#[derive(Debug, Default)]
pub(crate) struct StopRule {
    slow_seconds: u32,
    failing_seconds: u32,
}

impl StopRule {
    const SECONDS: u32 = 10;
    const P95_MS: f64 = 200.0;

    /// Adds a second. Returns the reason if the run has to stop.
    pub(crate) fn observe(&mut self, second: &Second) -> Option<&'static str> {
        let stalled = second.finished == 0 && second.waiting > 0;
        let slow = stalled || (second.finished > 0 && second.p95_ms > Self::P95_MS);
        let failing = second.errors * 100 > second.finished;
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

    const GOOD: Second = Second { finished: 100, errors: 1, p95_ms: 200.0, waiting: 5 };
    const SLOW: Second = Second { p95_ms: 201.0, ..GOOD };
    const FAILING: Second = Second { errors: 2, ..GOOD };
    const STALLED: Second = Second { finished: 0, errors: 0, p95_ms: 0.0, waiting: 5 };
    const IDLE: Second = Second { waiting: 0, ..STALLED };

    #[test]
    fn ten_bad_seconds_in_a_row_stop_a_run() {
        for bad in [SLOW, FAILING, STALLED] {
            let mut rule = StopRule::default();
            for _ in 0..9 {
                assert_eq!(rule.observe(&bad), None);
            }
            assert!(rule.observe(&bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn a_good_second_resets_the_count_and_idle_is_not_bad() {
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
    fn a_missing_figure_fails_its_check() {
        assert!(!Check::at_most("visible p95", 30.0, None, "ms").passed);
        assert!(Check::at_most("p95", 10.0, Some(10.0), "ms").passed);
        assert!(!Check::at_most("p95", 10.0, Some(10.01), "ms").passed);
    }
}
