//! What this slice counts. Never labelled by organization.

use std::sync::LazyLock;

use platform::telemetry::metrics;
use prometheus::{Gauge, IntCounter};

/// All metrics of the slice.
pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    look_ups: metrics::counter(
        "triggers_tenancy_key_look_ups_total",
        "Keys that were not cached and were looked up in PostgreSQL.",
    ),
    refused: metrics::counter(
        "triggers_tenancy_keys_refused_total",
        "Requests with a key that is not known, revoked or expired.",
    ),
    unavailable: metrics::counter(
        "triggers_tenancy_key_checks_unavailable_total",
        "Requests with a key that was not cached while PostgreSQL did not answer.",
    ),
    listening: metrics::gauge(
        "triggers_tenancy_listening",
        "1 while changes of keys are heard of at once, 0 while they are polled for.",
    ),
    reread: metrics::counter(
        "triggers_tenancy_cache_rereads_total",
        "Times the whole key cache was read again because a change was missed.",
    ),
});

pub(crate) struct Metrics {
    /// Look-ups of keys in the database.
    pub look_ups: IntCounter,
    pub refused: IntCounter,
    /// Keys that could not be checked.
    pub unavailable: IntCounter,
    /// Whether the listener is connected.
    pub listening: Gauge,
    /// Rereads of the whole cache.
    pub reread: IntCounter,
}
