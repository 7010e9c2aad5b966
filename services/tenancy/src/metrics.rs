//! Metrics of tenancy. No label carries an organization.

use std::sync::LazyLock;

use prometheus::{Gauge, IntCounter};
use runtime::telemetry::metrics;

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    lookups: metrics::counter(
        "triggers_tenancy_key_lookups_total",
        "Lookups in PostgreSQL of keys that were not cached.",
    ),
    refused: metrics::counter(
        "triggers_tenancy_keys_refused_total",
        "Requests with an unknown, revoked or expired key.",
    ),
    unavailable: metrics::counter(
        "triggers_tenancy_key_checks_unavailable_total",
        "Requests with a key that was not cached while PostgreSQL did not answer.",
    ),
    listening: metrics::gauge(
        "triggers_tenancy_listening",
        "1 while the LISTEN connection for key changes is up, 0 while they are only polled.",
    ),
    cache_reloads: metrics::counter(
        "triggers_tenancy_cache_reloads_total",
        "Reloads of the whole key cache because a change was missed.",
    ),
});

pub(crate) struct Metrics {
    pub lookups: IntCounter,
    pub refused: IntCounter,
    pub unavailable: IntCounter,
    pub listening: Gauge,
    pub cache_reloads: IntCounter,
}
