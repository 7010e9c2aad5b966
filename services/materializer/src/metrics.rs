//! Metrics of the materializer. No label carries an organization.

use std::sync::LazyLock;

use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec};
use runtime::telemetry::metrics;

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    lag_records: metrics::gauge_vec(
        "triggers_materializer_lag_records",
        "Records on the log that are not in the view yet.",
        &["topic"],
    ),
    lag_seconds: metrics::gauge_vec(
        "triggers_materializer_lag_seconds",
        "Seconds by which the view is behind the log.",
        &["topic"],
    ),
    rows: metrics::counter_vec("triggers_materializer_rows_total", "Rows written, by kind.", &["kind"]),
    duplicates: metrics::counter("triggers_materializer_duplicates_total", "Events that are duplicates."),
    dead_letters: metrics::counter_vec(
        "triggers_materializer_dead_letters_total",
        "Dead letters written, by class of the error.",
        &["class"],
    ),
    skipped: metrics::counter("triggers_materializer_skipped_total", "Skipped records of erased organizations."),
    too_old: metrics::counter(
        "triggers_materializer_too_old_total",
        "Skipped records that are older than the retention.",
    ),
    events_expired: metrics::counter_vec(
        "triggers_materializer_events_expired_total",
        "Events dropped after their retention, by whether they were acknowledged.",
        &["state"],
    ),
    events_expiring: metrics::gauge(
        "triggers_materializer_unacknowledged_expiring",
        "Unacknowledged events that will be dropped within two days; at most 10000.",
    ),
    effects_dropped: metrics::counter(
        "triggers_materializer_effects_dropped_total",
        "Pending effects (acks and attempts) dropped because their event never came.",
    ),
    fenced: metrics::counter(
        "triggers_materializer_fenced_total",
        "Partitions released because another instance had claimed them.",
    ),
    flush_records: metrics::histogram(
        "triggers_materializer_flush_records",
        "Records in one transaction.",
        &[1.0, 5.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0],
    ),
    flush_seconds: metrics::histogram(
        "triggers_materializer_flush_seconds",
        "Duration of a flush, from taking the batch to its commit.",
        &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0],
    ),
});

pub(crate) struct Metrics {
    pub(crate) lag_records: GaugeVec,
    pub(crate) lag_seconds: GaugeVec,
    pub(crate) rows: IntCounterVec,
    pub(crate) duplicates: IntCounter,
    pub(crate) dead_letters: IntCounterVec,
    pub(crate) skipped: IntCounter,
    pub(crate) too_old: IntCounter,
    pub(crate) events_expired: IntCounterVec,
    pub(crate) events_expiring: Gauge,
    pub(crate) effects_dropped: IntCounter,
    pub(crate) fenced: IntCounter,
    pub(crate) flush_records: Histogram,
    pub(crate) flush_seconds: Histogram,
}
