//! Metrics of the dispatcher. No label has an organization or an endpoint.

use std::sync::LazyLock;

use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec};
use runtime::telemetry::metrics;

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    attempts: metrics::counter_vec(
        "triggers_dispatcher_attempts_total",
        "Webhook attempts, by the state of the delivery after them.",
        &["outcome"],
    ),
    attempt_seconds: metrics::histogram(
        "triggers_dispatcher_attempt_seconds",
        "From the start of a request to the end of its response, including failed requests.",
        &[0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
    ),
    first_attempt_seconds: metrics::histogram(
        "triggers_dispatcher_first_attempt_seconds",
        "From the acceptance of an event to the end of its first attempt, for attempts that start from the log.",
        &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0],
    ),
    batch_events: metrics::histogram(
        "triggers_dispatcher_batch_events",
        "Events of a request to an endpoint with batched delivery.",
        &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0],
    ),
    circuits_opened: metrics::counter(
        "triggers_dispatcher_circuits_opened_total",
        "Circuits of endpoints that opened after failures in a row.",
    ),
    places_leased: metrics::counter(
        "triggers_dispatcher_rate_places_total",
        "Requests that rate limits of endpoints allowed this process to send.",
    ),
    rates_reduced: metrics::counter(
        "triggers_dispatcher_rates_reduced_total",
        "How often the rate of an endpoint was halved after 429, 503 or no answer.",
    ),
    pauses: metrics::counter(
        "triggers_dispatcher_endpoint_pauses_total",
        "Answers 429 with Retry-After, after each of which the endpoint gets nothing for that time.",
    ),
    endpoints_disabled: metrics::counter_vec(
        "triggers_dispatcher_endpoints_disabled_total",
        "Endpoints that the system disabled: gone (410), or failing for WEBHOOK_DISABLE_AFTER_HOURS.",
        &["reason"],
    ),
    in_flight: metrics::gauge("triggers_dispatcher_in_flight_attempts", "First attempts and retries in flight."),
    queue_depth: metrics::gauge(
        "triggers_dispatcher_queue_depth",
        "First attempts that wait for a slot of their endpoint.",
    ),
    uncommitted: metrics::gauge("triggers_dispatcher_uncommitted_records", "Records that are read and not committed."),
    spilled: metrics::counter_vec(
        "triggers_dispatcher_spilled_total",
        "Deliveries that go on from the schedule: their first attempt failed, or was not made or finished in time.",
        &["reason"],
    ),
    schedule_depth: metrics::gauge(
        "triggers_dispatcher_schedule_rows",
        "Unfinished rows of the schedule, counted up to 10000.",
    ),
    records: metrics::counter_vec(
        "triggers_dispatcher_records_total",
        "Records read from the log: matched, unmatched or unreadable.",
        &["kind"],
    ),
    unreported: metrics::counter(
        "triggers_dispatcher_unreported_total",
        "Attempts whose report Kafka did not accept; they are repeated.",
    ),
    stale_connections: metrics::counter(
        "triggers_dispatcher_stale_connections_total",
        "Requests that were sent again at once because the receiver had closed the idle connection.",
    ),
    token_requests: metrics::counter_vec(
        "triggers_dispatcher_token_requests_total",
        "Requests for tokens of OAuth 2.0 that webhooks of endpoints need: granted or failed.",
        &["outcome"],
    ),
    not_sent: metrics::counter_vec(
        "triggers_dispatcher_not_sent_total",
        "Requests that were not sent through no fault of the endpoint; they are repeated and are no attempts.",
        &["reason"],
    ),
    lag_records: metrics::gauge_vec(
        "triggers_dispatcher_lag_records",
        "Records between the committed position and the log's end.",
        &["partition"],
    ),
    lag_seconds: metrics::gauge_vec(
        "triggers_dispatcher_lag_seconds",
        "Age of the first unfinished record, or of the last finished one while later ones are unread; 0 at the end.",
        &["partition"],
    ),
});

pub(crate) struct Metrics {
    pub(crate) attempts: IntCounterVec,
    pub(crate) attempt_seconds: Histogram,
    pub(crate) first_attempt_seconds: Histogram,
    pub(crate) batch_events: Histogram,
    pub(crate) circuits_opened: IntCounter,
    pub(crate) places_leased: IntCounter,
    pub(crate) rates_reduced: IntCounter,
    pub(crate) pauses: IntCounter,
    pub(crate) endpoints_disabled: IntCounterVec,
    pub(crate) in_flight: Gauge,
    pub(crate) queue_depth: Gauge,
    pub(crate) uncommitted: Gauge,
    pub(crate) spilled: IntCounterVec,
    pub(crate) schedule_depth: Gauge,
    pub(crate) records: IntCounterVec,
    pub(crate) unreported: IntCounter,
    pub(crate) stale_connections: IntCounter,
    pub(crate) token_requests: IntCounterVec,
    pub(crate) not_sent: IntCounterVec,
    pub(crate) lag_records: GaugeVec,
    pub(crate) lag_seconds: GaugeVec,
}
