//! Metrics of requests by route template, and log lines for slow requests.

use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::context::RequestContext;
use runtime::telemetry::metrics;
use runtime::telemetry::throttle::Throttle;

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    requests: metrics::counter_vec(
        "triggers_http_requests_total",
        "Requests by route template, method and status code; `cancelled` when the client disconnected first.",
        &["route", "method", "status"],
    ),
    duration: metrics::histogram_vec(
        "triggers_http_request_duration_seconds",
        "Time from request headers to response headers, by route template; without the wait of long polls.",
        &["route"],
        &[0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
    ),
});

/// Limits the log lines about slow requests of the whole process.
static SLOW_REQUEST_LINES: Throttle = Throttle::new(20);

struct Metrics {
    requests: IntCounterVec,
    duration: HistogramVec,
}

/// How long a handler waited because the client asked for a long poll. The handler puts it into the response's
/// extensions; this time does not count as slow.
#[derive(Debug, Clone, Copy)]
pub struct LongPollWait(pub Duration);

/// The durations above which a request is logged.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlowThresholds {
    pub(super) warn: Duration,
    pub(super) error: Duration,
}

/// Status codes whose counters are cached.
const COMMON_STATUSES: [u16; 22] =
    [200, 201, 202, 204, 207, 400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 421, 422, 429, 500, 502, 503, 504];

/// The metrics of one route and method. They are cached, because a lookup by label takes a lock and a hash.
pub(super) struct RouteMetrics {
    pub(super) route: Box<str>,
    pub(super) method: &'static str,
    duration: Histogram,
    requests: [OnceLock<IntCounter>; COMMON_STATUSES.len()],
}

impl RouteMetrics {
    pub(super) fn new(route: &str, method: &Method) -> Self {
        Self {
            route: Box::from(route),
            method: method_label(method),
            duration: METRICS.duration.with_label_values(&[route]),
            requests: [const { OnceLock::new() }; COMMON_STATUSES.len()],
        }
    }

    pub(super) fn is_of(&self, route: &str, method: &Method) -> bool {
        *self.route == *route && self.method == method_label(method)
    }

    fn count(&self, status: StatusCode) {
        match COMMON_STATUSES.iter().position(|common| *common == status.as_u16()) {
            Some(at) => self.requests[at].get_or_init(|| self.counter(status.as_str())).inc(),
            None => self.counter(status.as_str()).inc(),
        }
    }

    fn counter(&self, status: &str) -> IntCounter {
        METRICS.requests.with_label_values(&[&*self.route, self.method, status])
    }

    /// Records a request that was answered.
    pub(super) fn answered(
        &self,
        context: &RequestContext,
        status: StatusCode,
        waited: Duration,
        slow: SlowThresholds,
    ) {
        let duration = context.received.elapsed().saturating_sub(waited);
        self.count(status);
        self.duration.observe(duration.as_secs_f64());
        let (request_id, method, route, status) = (&*context.request_id, self.method, &*self.route, status.as_u16());
        let duration_ms = duration.as_micros() as f64 / 1000.0;
        if duration <= slow.warn {
            tracing::debug!(request_id, method, route, status, duration_ms, "Request answered.");
            return;
        }
        // Under overload every request is slow. The histogram still counts all of them.
        let Some(held_back) = SLOW_REQUEST_LINES.admit() else { return };
        if duration > slow.error {
            tracing::error!(request_id, method, route, status, duration_ms, held_back, "Request took far too long.");
        } else {
            tracing::warn!(request_id, method, route, status, duration_ms, held_back, "Request was slow.");
        }
    }

    /// Records a request whose client disconnected before the response. It is timed too, or a slow server would look
    /// fast.
    pub(super) fn cancelled(&self, context: &RequestContext) {
        let duration = context.received.elapsed();
        self.counter("cancelled").inc();
        self.duration.observe(duration.as_secs_f64());
        let (request_id, method, route) = (&*context.request_id, self.method, &*self.route);
        tracing::debug!(
            request_id,
            method,
            route,
            duration_ms = duration.as_millis() as u64,
            "Client disconnected before the response."
        );
    }
}

/// Clients may send any method, but the number of labels must stay bounded.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}
