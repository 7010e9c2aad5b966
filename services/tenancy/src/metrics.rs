//! Metrics of tenancy. No label carries an organization.

use std::sync::LazyLock;

use prometheus::{Gauge, IntCounter, IntCounterVec};
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
    limits_leases: metrics::counter(
        "triggers_rate_limit_leases_total",
        "Transactions that lease tokens in PostgreSQL.",
    ),
    limits_leased: metrics::counter("triggers_rate_limit_tokens_leased_total", "Tokens leased; a request spends one."),
    limits_returned: metrics::counter(
        "triggers_rate_limit_tokens_returned_total",
        "Leased tokens that were not spent and given back.",
    ),
    limits_refused: metrics::counter_vec(
        "triggers_rate_limit_refused_total",
        "Requests over a rate limit, by what the limit is for: organization or key.",
        &["scope"],
    ),
    limits_local: metrics::gauge(
        "triggers_rate_limit_local",
        "1 while this instance limits rates by itself, because PostgreSQL leases no tokens.",
    ),
    limits_local_ms: metrics::counter(
        "triggers_rate_limit_local_milliseconds_total",
        "How long this instance limited rates by itself.",
    ),
});

pub(crate) struct Metrics {
    pub lookups: IntCounter,
    pub refused: IntCounter,
    pub unavailable: IntCounter,
    pub listening: Gauge,
    pub cache_reloads: IntCounter,
    pub limits_leases: IntCounter,
    pub limits_leased: IntCounter,
    pub limits_returned: IntCounter,
    pub limits_refused: IntCounterVec,
    pub limits_local: Gauge,
    pub limits_local_ms: IntCounter,
}
