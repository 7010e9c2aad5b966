//! The results of the generator: latency histograms, outcomes, and the accepted ids.
//!
//! There is one recorder per client thread, behind a lock that it shares only with the reader that comes once a second.
//! Thresholds are in `scenario`; the comparison of the ids with the inbox is in `inbox_check`.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use uuid::Uuid;

/// Maximum latency of the histograms; longer ones count as this.
const MAX_LATENCY_US: u64 = 120_000_000;
/// Accepted ids are kept in blocks of this size, so that nothing is copied during a run.
const BLOCK: usize = 1 << 16;

/// The outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RequestOutcome {
    /// A success code with an event id.
    Accepted,
    /// Any other status, or a success without an id.
    Status(u16),
    /// No reply in time.
    TimedOut,
    Connection,
    Unreadable,
}

impl RequestOutcome {
    /// Whether the event may be stored although it was not reported as accepted.
    fn may_be_stored(self) -> bool {
        match self {
            Self::Accepted => false,
            // A timeout at the broker is also answered with 503. Other 5xx are unexpected.
            Self::Status(status) => status >= 500 || (200..300).contains(&status),
            Self::TimedOut | Self::Connection | Self::Unreadable => true,
        }
    }

    /// The name of this outcome in a report.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Accepted => "accepted".to_owned(),
            Self::Status(status) => format!("status_{status}"),
            Self::TimedOut => "timed_out".to_owned(),
            Self::Connection => "connection".to_owned(),
            Self::Unreadable => "unreadable".to_owned(),
        }
    }
}

/// An accepted event. Times are microseconds from the start of the run, which may last 71 minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AcceptedEvent {
    pub id: Uuid,
    /// Index of its organization.
    pub organization: u32,
    /// When the request was written.
    pub sent_us: u32,
    /// When the reply was read.
    pub done_us: u32,
}

/// A finished request. Times count from the start of the run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Observation {
    /// Index of the organization.
    pub organization: usize,
    /// When it was due.
    pub intended: Duration,
    /// When it was sent.
    pub sent: Duration,
    /// When the reply was read.
    pub done: Duration,
    pub outcome: RequestOutcome,
    /// Id of the accepted event.
    pub event_id: Option<Uuid>,
}

/// Latency percentiles, in milliseconds. Those of nothing are not numbers, so that they reach no target.
#[derive(Debug, Clone, Copy, Serialize)]
#[allow(missing_docs, reason = "the names are clear")]
pub(crate) struct Latency {
    pub count: u64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub p9999_ms: f64,
    pub max_ms: f64,
}

impl Latency {
    /// The percentiles of a histogram of microseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            count: histogram.len(),
            mean_ms: histogram.mean() / 1000.0,
            p50_ms: at(0.50),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            p9999_ms: at(0.9999),
            max_ms: histogram.max() as f64 / 1000.0,
        }
    }
}

impl Default for Latency {
    fn default() -> Self {
        let none = f64::NAN;
        Self {
            count: 0,
            mean_ms: none,
            p50_ms: none,
            p95_ms: none,
            p99_ms: none,
            p999_ms: none,
            p9999_ms: none,
            max_ms: none,
        }
    }
}

/// A histogram of microseconds up to two minutes, three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    // These constants are valid. The fallback is never used.
    Histogram::new_with_bounds(1, MAX_LATENCY_US, 3)
        .unwrap_or_else(|_| Histogram::<u64>::new(3).unwrap_or_else(|_| unreachable!()))
}

/// Microseconds, limited to the range of a histogram.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(MAX_LATENCY_US).min(MAX_LATENCY_US)
}

/// The results since the last reading.
#[derive(Debug)]
pub(crate) struct Interval {
    /// Latency of finished requests, from the intended time.
    pub latency: Histogram<u64>,
    pub accepted: u64,
    /// Requests with any other outcome.
    pub errors: u64,
    /// The same by outcome.
    pub failures: BTreeMap<RequestOutcome, u64>,
}

impl Interval {
    /// An interval without requests.
    pub(crate) fn empty() -> Self {
        Self { latency: histogram(), accepted: 0, errors: 0, failures: BTreeMap::new() }
    }
}

/// The results of one client thread.
#[derive(Debug)]
pub(crate) struct Recorder {
    measured_from: Duration,
    interval: Interval,
    /// Latency of measured requests, from the intended time.
    pub latency: Histogram<u64>,
    /// How late measured requests were sent: the share of the generator in the latency.
    pub send_delay: Histogram<u64>,
    /// When the last measured request was finished, from the start of the run.
    pub last_done: Duration,
    /// Measured requests by outcome.
    pub measured: BTreeMap<RequestOutcome, u64>,
    /// All requests by outcome.
    pub all: BTreeMap<RequestOutcome, u64>,
    accepted: Vec<Vec<AcceptedEvent>>,
}

impl Recorder {
    /// An empty recorder. Requests that are due before `measured_from` count for the inbox but not for the figures.
    pub(crate) fn new(measured_from: Duration) -> Self {
        Self {
            measured_from,
            interval: Interval::empty(),
            latency: histogram(),
            send_delay: histogram(),
            last_done: Duration::ZERO,
            measured: BTreeMap::new(),
            all: BTreeMap::new(),
            accepted: Vec::new(),
        }
    }

    /// Adds a finished request.
    pub(crate) fn record(&mut self, seen: &Observation) {
        let latency = micros(seen.done.saturating_sub(seen.intended));
        self.interval.latency.saturating_record(latency);
        *self.all.entry(seen.outcome).or_default() += 1;
        if seen.outcome == RequestOutcome::Accepted {
            self.interval.accepted += 1;
        } else {
            self.interval.errors += 1;
            *self.interval.failures.entry(seen.outcome).or_default() += 1;
        }
        if seen.intended >= self.measured_from {
            self.latency.saturating_record(latency);
            self.send_delay.saturating_record(micros(seen.sent.saturating_sub(seen.intended)));
            self.last_done = self.last_done.max(seen.done);
            *self.measured.entry(seen.outcome).or_default() += 1;
        }
        if let (RequestOutcome::Accepted, Some(id)) = (seen.outcome, seen.event_id) {
            if self.accepted.last().is_none_or(|block| block.len() == BLOCK) {
                self.accepted.push(Vec::with_capacity(BLOCK));
            }
            if let Some(block) = self.accepted.last_mut() {
                let clock = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
                block.push(AcceptedEvent {
                    id,
                    organization: seen.organization as u32,
                    sent_us: clock(seen.sent),
                    done_us: clock(seen.done),
                });
            }
        }
    }

    /// Moves the results since the last call into `into`.
    pub(crate) fn drain_interval(&mut self, into: &mut Interval) {
        into.latency += &self.interval.latency;
        into.accepted += self.interval.accepted;
        into.errors += self.interval.errors;
        for (outcome, count) in std::mem::take(&mut self.interval.failures) {
            *into.failures.entry(outcome).or_default() += count;
        }
        self.interval.latency.reset();
        self.interval.accepted = 0;
        self.interval.errors = 0;
    }

    /// Adds the results of another thread.
    pub(crate) fn merge(&mut self, other: Self) {
        self.latency += &other.latency;
        self.send_delay += &other.send_delay;
        self.last_done = self.last_done.max(other.last_done);
        for (mine, theirs) in [(&mut self.measured, other.measured), (&mut self.all, other.all)] {
            for (outcome, count) in theirs {
                *mine.entry(outcome).or_default() += count;
            }
        }
        self.accepted.extend(other.accepted);
    }

    /// Number of requests that were not accepted although their event may be stored.
    pub(crate) fn maybe_stored(&self) -> u64 {
        self.all.iter().filter(|(outcome, _)| outcome.may_be_stored()).map(|(_, count)| count).sum()
    }

    /// The accepted events by organization.
    pub(crate) fn into_accepted(self, organizations: usize) -> Vec<Vec<AcceptedEvent>> {
        let mut by_organization = vec![Vec::new(); organizations];
        for accepted in self.accepted.into_iter().flatten() {
            if let Some(list) = by_organization.get_mut(accepted.organization as usize) {
                list.push(accepted);
            }
        }
        by_organization
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observation(intended_ms: u64, sent_ms: u64, done_ms: u64, outcome: RequestOutcome) -> Observation {
        let ms = Duration::from_millis;
        Observation {
            organization: 1,
            intended: ms(intended_ms),
            sent: ms(sent_ms),
            done: ms(done_ms),
            outcome,
            event_id: (outcome == RequestOutcome::Accepted).then(Uuid::now_v7),
        }
    }

    #[test]
    fn latency_counts_from_the_intended_time() {
        let mut recorder = Recorder::new(Duration::ZERO);
        recorder.record(&observation(100, 1_100, 1_105, RequestOutcome::Accepted));
        assert!((Latency::of(&recorder.latency).max_ms - 1_005.0).abs() < 1.0);
        assert!((Latency::of(&recorder.send_delay).max_ms - 1_000.0).abs() < 1.0);
    }

    #[test]
    fn what_was_not_measured_has_no_percentile() {
        let nothing = Latency::of(&histogram());
        assert_eq!(nothing.count, 0);
        assert!(nothing.p95_ms.is_nan() && nothing.max_ms.is_nan(), "{nothing:?}");
    }

    #[test]
    fn the_ramp_counts_for_the_inbox_only() {
        let mut recorder = Recorder::new(Duration::from_secs(1));
        recorder.record(&observation(999, 999, 1_000, RequestOutcome::Accepted));
        recorder.record(&observation(1_000, 1_000, 1_001, RequestOutcome::Status(503)));
        assert_eq!(recorder.latency.len(), 1);
        assert_eq!(recorder.measured.get(&RequestOutcome::Accepted), None);
        assert_eq!((recorder.all.len(), recorder.maybe_stored()), (2, 1));
        let accepted = recorder.into_accepted(2);
        assert_eq!((accepted[0].len(), accepted[1].len()), (0, 1));
    }

    #[test]
    fn an_interval_is_read_once() {
        let mut recorder = Recorder::new(Duration::ZERO);
        recorder.record(&observation(0, 0, 5, RequestOutcome::Accepted));
        recorder.record(&observation(0, 0, 9, RequestOutcome::TimedOut));
        let mut interval = Interval::empty();
        recorder.drain_interval(&mut interval);
        assert_eq!((interval.latency.len(), interval.accepted, interval.errors), (2, 1, 1));
        assert_eq!(interval.failures, BTreeMap::from([(RequestOutcome::TimedOut, 1)]));
        let mut next = Interval::empty();
        recorder.drain_interval(&mut next);
        assert_eq!((next.latency.len(), next.accepted, next.errors), (0, 0, 0));
        assert!(next.failures.is_empty(), "{next:?}");
    }

    #[test]
    fn percentiles_reach_the_tail() {
        let mut histogram = histogram();
        histogram.record_n(1_000, 99_990).unwrap();
        histogram.record_n(500_000, 10).unwrap();
        let latency = Latency::of(&histogram);
        assert!((latency.p999_ms - 1.0).abs() < 0.01, "{latency:?}");
        assert!((latency.max_ms - 500.0).abs() < 1.0, "{latency:?}");
    }
}
