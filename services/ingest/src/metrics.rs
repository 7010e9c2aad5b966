//! Metrics of ingest. No label carries an organization.

use std::sync::LazyLock;

use prometheus::local::{LocalHistogram, LocalIntCounter};
use prometheus::{Histogram, IntCounter, IntCounterVec};
use runtime::telemetry::metrics;

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    accepted: metrics::counter(
        "triggers_ingest_accepted_total",
        "Events answered with success after Kafka's delivery report.",
    ),
    duplicates: metrics::counter_vec(
        "triggers_ingest_duplicates_total",
        "Events answered as duplicates, by kind of dedup key.",
        &["kind"],
    ),
    refused: metrics::counter_vec(
        "triggers_ingest_refused_total",
        "Events not accepted, by error code.",
        &["error_code"],
    ),
    append_seconds: metrics::histogram(
        "triggers_ingest_append_seconds",
        "Time from handing a record to the producer until its delivery report, failures included.",
        &[0.001, 0.002, 0.004, 0.006, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0],
    ),
    lookups: metrics::counter_vec(
        "triggers_ingest_dedup_lookups_total",
        "Lookups of dedup keys in the view, by outcome.",
        &["outcome"],
    ),
});

pub(crate) struct Metrics {
    pub(crate) accepted: IntCounter,
    pub(crate) duplicates: IntCounterVec,
    pub(crate) refused: IntCounterVec,
    pub(crate) append_seconds: Histogram,
    pub(crate) lookups: IntCounterVec,
}

/// Measurements of the events of one request, which are added to the metrics together.
pub(crate) struct Measured {
    pub(crate) accepted: LocalIntCounter,
    pub(crate) append_seconds: LocalHistogram,
}

impl Default for Measured {
    fn default() -> Self {
        Self { accepted: METRICS.accepted.local(), append_seconds: METRICS.append_seconds.local() }
    }
}

impl Measured {
    pub(crate) fn add_to_metrics(&self) {
        self.accepted.flush();
        self.append_seconds.flush();
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.add_to_metrics();
    }
}
