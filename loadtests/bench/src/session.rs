//! Watches a load from its first request to its last reply: prints a line per second, applies the stop rule, and
//! measures the resources of each component.
//!
//! The load is produced in `generator`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::generator::Generator;
use crate::lag::LagReader;
use crate::process_usage::{self, Component, Usage};
use crate::recorder::{Interval, Latency, Recorder, RequestOutcome};
use crate::scenario::{Load, Pace, Second, StopRule};

/// One second of a run.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Seconds from the start to its end.
    pub at_seconds: f64,
    /// Whether it is in the measured part.
    pub measured: bool,
    /// Intended rate per second; 0 in the closed loop.
    pub target: u64,
    pub sent: u64,
    /// Requests accepted.
    pub accepted: u64,
    /// Requests with another outcome.
    pub errors: u64,
    /// The same by outcome.
    pub failures: BTreeMap<RequestOutcome, u64>,
    /// Latency of finished requests.
    pub latency: Latency,
    /// Time to visible of the sampled events that were accepted in it; no events if it was not measured.
    pub visible: Latency,
    /// Requests in flight at its end.
    pub in_flight: u64,
    /// Requests due and not sent at its end.
    pub backlog: u64,
    /// Cores used, and MiB at its end, by component.
    pub components: BTreeMap<String, (f64, f64)>,
    /// Records on the log that a consumer group has not committed, by group; empty if it was not measured.
    pub lag_records: BTreeMap<String, u64>,
}

pub(crate) struct Session {
    /// Start of the schedule.
    pub started: Instant,
    /// The results of all connections.
    pub recorder: Recorder,
    /// One row per second.
    pub rows: Vec<Row>,
    pub sent: u64,
    /// Why it was stopped early, if it was.
    pub stopped: Option<String>,
}

/// Watches `generator` to its end. With `lag`, each row has how far that consumer is behind.
pub(crate) async fn watch(
    generator: Generator,
    load: &Load,
    components: &[Component],
    mut lag: Option<&mut LagReader>,
) -> anyhow::Result<Session> {
    let mut ticks =
        tokio::time::interval_at((generator.started + Duration::from_secs(1)).into(), Duration::from_secs(1));
    let mut meter = Meter::new(components);
    let mut rule = StopRule::default();
    let mut rows: Vec<Row> = Vec::new();
    let (mut stopped, mut sent_before) = (None, 0);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            interrupted = tokio::signal::ctrl_c(), if stopped.is_none() => {
                interrupted.context("listening for interrupts")?;
                stopped = Some("interrupted".to_owned());
                generator.stop();
                continue;
            }
        }
        let finished = generator.finished();
        let counts = generator.counts();
        let mut row = row(&generator, load, &generator.interval(), counts.sent - sent_before, &mut meter);
        if let Some(reader) = lag.as_deref_mut()
            && let Ok(records) = reader.records().await
        {
            row.lag_records.insert(reader.consumer.clone(), records);
        }
        sent_before = counts.sent;
        eprintln!("{}", line(&row));
        let second = Second {
            finished: row.accepted + row.errors,
            errors: row.errors,
            p95_ms: row.latency.p95_ms,
            waiting: row.in_flight + row.backlog,
        };
        rows.push(row);
        if finished {
            break;
        }
        if stopped.is_none()
            && load.stops
            && let Some(reason) = rule.observe(&second)
        {
            eprintln!("stopping: {reason}");
            stopped = Some(reason.to_owned());
            generator.stop();
        }
    }
    let started = generator.started;
    let recorder = generator.into_recorder()?;
    Ok(Session { started, recorder, rows, sent: sent_before, stopped })
}

fn row(generator: &Generator, load: &Load, interval: &Interval, sent: u64, meter: &mut Meter) -> Row {
    let elapsed = generator.started.elapsed();
    let counts = generator.counts();
    let row_start = elapsed.saturating_sub(Duration::from_secs(1));
    let from = load.pace.measured_from();
    Row {
        at_seconds: elapsed.as_secs_f64(),
        // A tick may be a little late, and is never early.
        measured: row_start + Duration::from_millis(50) >= from && row_start < from + load.measured,
        target: match load.pace {
            Pace::Open(schedule) => schedule.rate_at(row_start),
            Pace::Closed { .. } => 0,
        },
        sent,
        accepted: interval.accepted,
        errors: interval.errors,
        failures: interval.failures.clone(),
        latency: Latency::of(&interval.latency),
        visible: Latency::default(),
        in_flight: counts.in_flight,
        backlog: counts.backlog,
        components: meter.read(),
        lag_records: BTreeMap::new(),
    }
}

fn line(row: &Row) -> String {
    let latency = &row.latency;
    format!(
        "{:>5.0} s  sent {:>6}/s  ok {:>6}  errors {:>4}  p50 {:>7.2}  p95 {:>7.2}  p99 {:>7.2} ms  \
         in flight {:>4}  waiting {:>5}{}",
        row.at_seconds,
        row.sent,
        row.accepted,
        row.errors,
        latency.p50_ms,
        latency.p95_ms,
        latency.p99_ms,
        row.in_flight,
        row.backlog,
        if row.measured { "" } else { "  (not counted)" }
    )
}

/// Converts total CPU time into cores used between two readings.
struct Meter {
    components: Vec<Component>,
    read_at: Instant,
    before: BTreeMap<String, Usage>,
}

impl Meter {
    fn new(components: &[Component]) -> Self {
        Self { components: components.to_vec(), read_at: Instant::now(), before: process_usage::usage(components) }
    }

    fn read(&mut self) -> BTreeMap<String, (f64, f64)> {
        let (now, usage) = (Instant::now(), process_usage::usage(&self.components));
        let seconds = now.duration_since(self.read_at).as_secs_f64().max(1e-3);
        let cores = |name: &String, usage: &Usage| {
            let before = self.before.get(name).map_or(usage.cpu_seconds, |before| before.cpu_seconds);
            ((usage.cpu_seconds - before).max(0.0) / seconds, usage.memory_mib)
        };
        let read = usage.iter().map(|(name, usage)| (name.clone(), cores(name, usage))).collect();
        (self.read_at, self.before) = (now, usage);
        read
    }
}
