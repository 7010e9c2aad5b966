//! A run of 40 seconds at 10,000/s, 10 of them not measured, for the tests of the report.

use std::collections::BTreeMap;

use loadkit::RunEnvironment;

use crate::figures::{ComponentFigures, Figures, LoadSummary};
use crate::recorder::{Latency, RequestOutcome};
use crate::report::Report;
use crate::scenario::Check;
use crate::session::Row;
use crate::variation::{PayloadBytes, Shares};
use crate::visibility::Visibility;

/// Cores and MiB by component.
const COMPONENTS: [(&str, f64, f64); 4] =
    [("generator", 0.25, 60.0), ("kafka", 0.3, 700.0), ("postgres", 0.15, 220.0), ("triggers", 0.5, 90.0)];

fn latency(scale: f64, count: u64) -> Latency {
    Latency {
        count,
        mean_ms: 3.1 * scale,
        p50_ms: 2.25 * scale,
        p95_ms: 8.5 * scale,
        p99_ms: 21.75 * scale,
        p999_ms: 60.5 * scale,
        p9999_ms: 110.25 * scale,
        max_ms: 182.5 * scale,
    }
}

/// Row `n`; the load is steady and the latency varies.
fn row(n: u64) -> Row {
    let errors = if n == 30 { 7 } else { 0 };
    let wave = 1.0 + 0.4 * ((n * n) as f64).sin();
    let components = COMPONENTS.map(|(name, cores, memory)| (name.to_owned(), (cores * wave, memory + n as f64)));
    Row {
        at_seconds: n as f64 + 1.001,
        measured: n >= 10,
        target: if n < 10 { 1_000 * (n + 1) } else { 10_000 },
        sent: if n < 10 { 1_000 * (n + 1) } else { 10_000 },
        accepted: if n < 10 { 1_000 * (n + 1) } else { 10_000 - errors },
        errors,
        failures: (errors > 0).then_some((RequestOutcome::Status(503), errors)).into_iter().collect(),
        latency: latency(wave, 10_000),
        visible: latency(3.0 * wave, 100),
        in_flight: 25 + n % 7,
        backlog: n % 3,
        components: BTreeMap::from(components),
        lag_records: BTreeMap::new(),
    }
}

/// One row a second.
pub(crate) fn rows() -> Vec<Row> {
    (0..40).map(row).collect()
}

/// Its figures: nothing limits.
pub(crate) fn figures() -> Figures {
    let components =
        COMPONENTS.map(|(name, cpu_cores, memory_mib)| (name.to_owned(), ComponentFigures { cpu_cores, memory_mib }));
    Figures {
        load: LoadSummary {
            model: "open",
            rate_per_second: Some(10_000),
            not_counted_seconds: 10.0,
            measured_seconds: 30.0,
            connections: 256,
            payload_bytes: PayloadBytes::exactly(600),
            event_types: 1,
            batch_events: 1,
            organizations: 1_000,
            shares: Shares::Even,
            reads_per_second: 0,
            preload_events: 0,
            keyed: false,
            client_threads: 1,
        },
        stopped: None,
        requests: 300_000,
        errors: 7,
        error_percent: 7.0 / 3_000.0,
        accepted_per_second: 9_998.4,
        never_sent: 0,
        latency: latency(1.0, 300_000),
        send_delay: latency(0.01, 300_000),
        outcomes: BTreeMap::from([("accepted".to_owned(), 354_993), ("status_503".to_owned(), 7)]),
        components: BTreeMap::from(components),
        cpu_us_per_event: COMPONENTS.map(|(name, cores, _)| (name.to_owned(), cores * 100.0)).into(),
        applied_after_ms: Some(40.0),
        visibility: Some(Visibility {
            latency: latency(3.0, 3_000),
            poll_interval_ms: 3,
            never_visible: 0,
            dropped: 0,
            samples: Vec::new(),
        }),
        reads: Vec::new(),
        inbox: None,
        log: None,
        allowed_unexpected: None,
        measurement_errors: Vec::new(),
    }
}

/// Its report.
pub(crate) fn report() -> Report {
    let figures = figures();
    let checks = vec![
        Check::at_most("errors", 0.01, Some(figures.error_percent), "%"),
        Check::at_most("p95", 10.0, Some(figures.latency.p95_ms), "ms"),
        Check::at_most("p99", 20.0, Some(figures.latency.p99_ms), "ms"),
    ];
    let environment = RunEnvironment {
        cpu: "Example CPU @ 2.50GHz".to_owned(),
        cores: 2,
        memory_mib: 7_936,
        kernel: "6.1.0".to_owned(),
        version: "0.1.0".to_owned(),
        optimized_generator: true,
        commit: "0123456789abcdef0123456789abcdef01234567".to_owned(),
        uncommitted_changes: true,
        command: ["bench", "run", "--scenario", "full", "--url", "http://127.0.0.1:8080"].map(str::to_owned).into(),
        started_at: "2026-01-02T03:04:05.678Z".to_owned(),
        versions: BTreeMap::from([("postgres".to_owned(), "17.2".to_owned())]),
    };
    Report { name: "full".to_owned(), environment, figures, passed: false, checks, rows: rows() }
}
