//! The figures of the measured part of a run, and the check of each threshold. Pure.
//!
//! They come from `session`, `visibility` and `inbox_reader`; `report` writes them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::inbox_check::InboxCheck;
use crate::log_count::LogCount;
use crate::reads::{self, ReadFigures};
use crate::recorder::{Latency, RequestOutcome};
use crate::scenario::{Check, Load, Pace, Thresholds};
use crate::session::{Row, Session};
use crate::variation::{PayloadBytes, Shares};
use crate::visibility::Visibility;

/// The check that the load was kept up.
pub(crate) const COMPLETE_SCHEDULE: &str = "the complete schedule was sent";

/// The figures of one run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub load: LoadSummary,
    /// Why the run was stopped early, if it was.
    pub stopped: Option<String>,
    /// Requests of the measured part.
    pub requests: u64,
    /// Requests that were not accepted.
    pub errors: u64,
    /// The same in percent.
    pub error_percent: f64,
    /// Events accepted in the measured part, per second.
    pub accepted_per_second: f64,
    /// Requests of the schedule that were not sent because the run was stopped early.
    pub never_sent: u64,
    /// Latency from the intended time (open model) or from the sending (closed loop).
    pub latency: Latency,
    /// How late requests were sent: the share of the generator and its number of connections in the latency.
    pub send_delay: Latency,
    /// All requests by outcome, including those before the measured part.
    pub outcomes: BTreeMap<String, u64>,
    /// Use of resources in the measured part. That of the generator includes the polling for visibility.
    pub components: BTreeMap<String, ComponentFigures>,
    /// CPU of each accepted event, microseconds: from the first request until every event was applied, or until the
    /// last reply if nothing applies them. That of the generator includes the polling for visibility.
    pub cpu_us_per_event: BTreeMap<String, f64>,
    /// From the last reply until every event was applied; none if it is not known.
    pub applied_after_ms: Option<f64>,
    /// Time from success to visible; none without a database.
    pub visibility: Option<Visibility>,
    /// The reads beside the requests, by kind.
    pub reads: Vec<ReadFigures>,
    /// Comparison of accepted and stored events; none without an inbox.
    pub inbox: Option<InboxCheck>,
    /// Comparison of accepted events with those on the log, for batches.
    pub log: Option<LogCount>,
    /// Maximum of `inbox.unexpected`: requests without success whose event may be stored. None if others send too.
    pub allowed_unexpected: Option<u64>,
    /// What could not be measured or counted, and why.
    pub measurement_errors: Vec<String>,
}

/// A load as the report shows it.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the names are clear")]
pub(crate) struct LoadSummary {
    pub model: &'static str,
    pub rate_per_second: Option<u64>,
    pub not_counted_seconds: f64,
    pub measured_seconds: f64,
    pub connections: usize,
    pub payload_bytes: PayloadBytes,
    pub event_types: usize,
    pub batch_events: usize,
    pub organizations: usize,
    pub shares: Shares,
    pub reads_per_second: u64,
    pub preload_events: u64,
    pub keyed: bool,
    /// Threads that drive the connections.
    pub client_threads: usize,
}

/// Use of resources by a component in the measured part.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct ComponentFigures {
    /// Mean number of cores.
    pub cpu_cores: f64,
    pub memory_mib: f64,
}

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Metric {
    pub name: String,
    pub value: f64,
    /// The unit of `value`.
    pub unit: &'static str,
}

impl Figures {
    /// The figures of `session`, without visibility and inbox.
    pub(crate) fn of(load: &Load, session: &Session) -> Self {
        let recorder = &session.recorder;
        let requests: u64 = recorder.measured.values().sum();
        let accepted = recorder.measured.get(&RequestOutcome::Accepted).copied().unwrap_or(0);
        let errors = requests - accepted;
        let seconds = recorder.last_done.saturating_sub(load.pace.measured_from()).as_secs_f64();
        let (rate, never_sent) = match load.pace {
            Pace::Open(schedule) => (Some(schedule.peak()), schedule.total().saturating_sub(session.sent)),
            Pace::Closed { .. } => (None, 0),
        };
        Self {
            load: LoadSummary {
                model: if rate.is_some() { "open" } else { "closed" },
                rate_per_second: rate,
                not_counted_seconds: load.pace.measured_from().as_secs_f64(),
                measured_seconds: load.measured.as_secs_f64(),
                connections: load.connections,
                payload_bytes: load.payload_bytes,
                event_types: load.event_types,
                batch_events: load.batch_events,
                organizations: load.organizations,
                shares: load.shares,
                reads_per_second: load.reads_per_second,
                preload_events: load.preload_events,
                keyed: load.keyed,
                client_threads: load.client_threads,
            },
            stopped: session.stopped.clone(),
            requests,
            errors,
            error_percent: if requests == 0 { 0.0 } else { errors as f64 * 100.0 / requests as f64 },
            accepted_per_second: if seconds > 0.0 {
                (accepted * load.batch_events as u64) as f64 / seconds
            } else {
                0.0
            },
            never_sent,
            latency: Latency::of(&recorder.latency),
            send_delay: Latency::of(&recorder.send_delay),
            outcomes: recorder.all.iter().map(|(outcome, count)| (outcome.name(), *count)).collect(),
            components: components(&session.rows),
            cpu_us_per_event: BTreeMap::new(),
            applied_after_ms: None,
            visibility: None,
            reads: Vec::new(),
            inbox: None,
            log: None,
            allowed_unexpected: None,
            measurement_errors: Vec::new(),
        }
    }

    /// CPU of an event by one component, microseconds; not a number if it was not measured.
    pub(crate) fn cpu_us_of(&self, component: &str) -> f64 {
        self.cpu_us_per_event.get(component).copied().unwrap_or(f64::NAN)
    }

    /// CPU of an event by all components but the generator, microseconds.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu_us_per_event.iter().filter(|(name, _)| *name != "generator").map(|(_, micros)| micros).sum()
    }

    /// Checks the figures against `thresholds`.
    pub(crate) fn check(&self, thresholds: &Thresholds) -> Vec<Check> {
        let mut checks = vec![
            Check {
                name: COMPLETE_SCHEDULE,
                threshold: "all of it".to_owned(),
                found: self.stopped.clone().unwrap_or_else(|| "all of it".to_owned()),
                passed: self.stopped.is_none() && self.requests > 0,
            },
            Check::at_most("errors", thresholds.max_error_percent, Some(self.error_percent), "%"),
        ];
        let latency = &self.latency;
        for (name, threshold, found) in [
            ("p95", thresholds.p95_ms, latency.p95_ms),
            ("p99", thresholds.p99_ms, latency.p99_ms),
            ("max", thresholds.max_ms, latency.max_ms),
        ] {
            checks.extend(threshold.map(|threshold| Check::at_most(name, threshold, Some(found), "ms")));
        }
        checks.extend(reads::check(&self.reads, thresholds));
        if let Some(threshold) = thresholds.visible_p95_ms {
            let seen = self.visibility.as_ref().filter(|visibility| visibility.latency.count > 0);
            checks.push(Check::at_most(
                "visible p95",
                threshold,
                seen.map(|visibility| visibility.latency.p95_ms),
                "ms",
            ));
        }
        if let Some(visibility) = &self.visibility {
            checks.push(Check::at_most(
                "sampled events never visible",
                0.0,
                Some(visibility.never_visible as f64),
                "events",
            ));
        }
        if let Some(inbox) = &self.inbox {
            checks.push(Check {
                name: "every accepted event is in the inbox once",
                threshold: format!("{} stored once, in order, nothing else", inbox.accepted),
                found: format!(
                    "{} stored, {} missing, {} duplicates, {} misordered, {} unexpected",
                    inbox.stored, inbox.missing, inbox.duplicates, inbox.misordered, inbox.unexpected
                ),
                passed: inbox.passed(self.allowed_unexpected),
            });
        }
        if let Some(log) = &self.log {
            checks.push(Check {
                name: "every accepted event is on the log once",
                threshold: format!("{} to {}", log.accepted, log.accepted + log.maybe_stored),
                found: log.appended.to_string(),
                passed: log.passed(),
            });
        }
        checks.extend(self.measurement_errors.iter().map(|error| Check {
            name: "everything was measured and counted",
            threshold: "without errors".to_owned(),
            found: error.clone(),
            passed: false,
        }));
        checks
    }
}

impl Figures {
    /// All figures that were measured, one by one, with units.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        let mut add = |name: &str, value: f64, unit| {
            if !value.is_nan() {
                metrics.push(Metric { name: name.to_owned(), value, unit });
            }
        };
        add("accepted", self.accepted_per_second, "events/s");
        add("requests", self.requests as f64, "requests");
        add("errors", self.errors as f64, "requests");
        add("error_share", self.error_percent, "%");
        add("never_sent", self.never_sent as f64, "requests");
        let visible = self.visibility.as_ref().map(|seen| ("visible", &seen.latency));
        for (name, latency) in [("latency", &self.latency), ("send_delay", &self.send_delay)].into_iter().chain(visible)
        {
            add(&format!("{name}_mean"), latency.mean_ms, "ms");
            add(&format!("{name}_p50"), latency.p50_ms, "ms");
            add(&format!("{name}_p95"), latency.p95_ms, "ms");
            add(&format!("{name}_p99"), latency.p99_ms, "ms");
            add(&format!("{name}_p999"), latency.p999_ms, "ms");
            add(&format!("{name}_p9999"), latency.p9999_ms, "ms");
            add(&format!("{name}_max"), latency.max_ms, "ms");
        }
        if let Some(visibility) = &self.visibility {
            add("never_visible", visibility.never_visible as f64, "events");
        }
        for read in &self.reads {
            let name = read.kind.replace([' ', ','], "_");
            add(&format!("read_{name}_p95"), read.latency.p95_ms, "ms");
            add(&format!("read_{name}_p99"), read.latency.p99_ms, "ms");
            add(&format!("read_{name}_errors"), read.errors as f64, "requests");
        }
        for (name, used) in &self.components {
            add(&format!("{name}_cpu"), used.cpu_cores, "cores");
            if let Some(micros) = self.cpu_us_per_event.get(name) {
                add(&format!("{name}_cpu_per_event"), *micros, "us");
            }
            add(&format!("{name}_memory"), used.memory_mib, "MiB");
        }
        for (outcome, count) in &self.outcomes {
            add(&format!("outcome_{outcome}"), *count as f64, "requests");
        }
        if let Some(inbox) = &self.inbox {
            add("inbox_accepted", inbox.accepted as f64, "events");
            add("inbox_stored", inbox.stored as f64, "events");
            add("inbox_missing", inbox.missing as f64, "events");
            add("inbox_duplicates", inbox.duplicates as f64, "events");
            add("inbox_unexpected", inbox.unexpected as f64, "events");
            add("inbox_misordered", inbox.misordered as f64, "events");
        }
        if let Some(log) = &self.log {
            add("log_accepted", log.accepted as f64, "events");
            add("log_appended", log.appended as f64, "events");
        }
        metrics
    }
}

fn components(rows: &[Row]) -> BTreeMap<String, ComponentFigures> {
    let measured: Vec<&Row> = rows.iter().filter(|row| row.measured).collect();
    let mut figures: BTreeMap<String, ComponentFigures> = BTreeMap::new();
    for row in &measured {
        for (name, (cores, memory_mib)) in &row.components {
            let entry = figures.entry(name.clone()).or_default();
            entry.cpu_cores += cores / measured.len() as f64;
            entry.memory_mib = entry.memory_mib.max(*memory_mib);
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::{Observation, Recorder};
    use crate::scenario::Scenario;
    use crate::schedule::Schedule;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    fn load() -> Load {
        Load {
            pace: Pace::Open(Schedule::new(10, Duration::ZERO, SECOND)),
            measured: SECOND,
            connections: 1,
            payload_bytes: PayloadBytes::exactly(600),
            event_types: 1,
            batch_events: 1,
            organizations: 1,
            shares: Shares::Even,
            keyed: false,
            timeout: SECOND,
            client_threads: 1,
            stops: true,
            reads_per_second: 0,
            preload_events: 0,
        }
    }

    fn session(outcomes: &[RequestOutcome], stopped: Option<&str>) -> Session {
        let mut recorder = Recorder::new(Duration::ZERO);
        for (n, outcome) in outcomes.iter().enumerate() {
            let intended = Duration::from_millis(100) * n as u32;
            let done = intended + Duration::from_millis(100);
            recorder.record(&Observation {
                organization: 0,
                intended,
                sent: intended,
                done,
                outcome: *outcome,
                event_id: None,
            });
        }
        let (started, sent) = (std::time::Instant::now(), outcomes.len() as u64);
        Session { started, recorder, rows: Vec::new(), sent, stopped: stopped.map(str::to_owned) }
    }

    fn failed(figures: &Figures) -> Vec<&'static str> {
        failed_at(figures, 150.0)
    }

    fn failed_at(figures: &Figures, p95_ms: f64) -> Vec<&'static str> {
        let thresholds = Thresholds { visible_p95_ms: None, p95_ms: Some(p95_ms), ..Scenario::Smoke.thresholds() };
        figures.check(&thresholds).into_iter().filter(|check| !check.passed).map(|check| check.name).collect()
    }

    #[test]
    fn a_latency_above_its_threshold_fails() {
        let figures = Figures::of(&load(), &session(&[RequestOutcome::Accepted; 10], None));
        assert_eq!(failed_at(&figures, 50.0), ["p95"], "each request took 100 ms");
    }

    #[test]
    fn rate_and_errors_count_the_measured_part_only() {
        let figures = Figures::of(&load(), &session(&[RequestOutcome::Accepted; 10], None));
        assert!((figures.accepted_per_second - 10.0).abs() < 0.01, "{figures:?}");
        assert_eq!((figures.requests, figures.errors, figures.never_sent), (10, 0, 0));
        assert!(failed(&figures).is_empty());
    }

    #[test]
    fn errors_early_stop_and_missing_event_each_fail_a_check() {
        let mut outcomes = [RequestOutcome::Accepted; 10];
        outcomes[3] = RequestOutcome::Status(503);
        assert_eq!(failed(&Figures::of(&load(), &session(&outcomes, None))), ["errors"]);
        let short = Figures::of(&load(), &session(&[RequestOutcome::Accepted; 4], Some("interrupted")));
        assert_eq!(short.never_sent, 6);
        assert_eq!(failed(&short), [COMPLETE_SCHEDULE]);
        let mut lost = Figures::of(&load(), &session(&[RequestOutcome::Accepted; 10], None));
        lost.inbox = Some(InboxCheck { accepted: 10, stored: 9, missing: 1, ..InboxCheck::default() });
        assert_eq!(failed(&lost), ["every accepted event is in the inbox once"]);
    }
}
