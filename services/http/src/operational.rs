//! Routes for operators, without an API key: status, health and metrics.

use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::mount::{MountOptions, with_request_layer};
use runtime::health::Health;
use runtime::telemetry::metrics;

/// The program, its role and its version, as `/status` reports them.
#[derive(Debug, Clone, Copy)]
pub struct ServiceInfo {
    /// Name of the product.
    pub name: &'static str,
    /// Role of this process.
    pub role: &'static str,
    /// Version of the build.
    pub version: &'static str,
    /// When the process started.
    pub started: Instant,
}

impl ServiceInfo {
    /// A service that starts now.
    pub fn new(name: &'static str, role: &'static str, version: &'static str) -> Self {
        Self { name, role, version, started: Instant::now() }
    }
}

/// All operational routes: [`probe_routes`] and [`metrics_route`].
pub fn operational_routes(info: ServiceInfo, health: Health) -> Router {
    probe_routes(info, health).merge(metrics_route())
}

/// Status and health, at the root and under `/v1` and `/api`.
pub fn probe_routes(info: ServiceInfo, health: Health) -> Router {
    let mut routes = Router::new();
    for path in ["/", "/status", "/v1/status", "/api/status"] {
        routes = routes.route(path, get(move || async move { status(info) }));
    }
    for mount in ["", "/v1", "/api"] {
        routes = routes
            .route(&format!("{mount}/health"), get(all_healthy))
            .route(&format!("{mount}/health/detailed"), get(all_healthy))
            .route(&format!("{mount}/health/ready"), get(ready))
            .route(&format!("{mount}/health/live"), get(live));
    }
    with_request_layer(routes.with_state(health), MountOptions::default())
}

/// `/metrics` alone, for a separate port.
pub fn metrics_route() -> Router {
    with_request_layer(Router::new().route("/metrics", get(render_metrics)), MountOptions::default())
}

fn status(info: ServiceInfo) -> Json<Value> {
    Json(json!({
        "name": info.name,
        "role": info.role,
        "version": info.version,
        "status": "healthy",
        "uptime_seconds": info.started.elapsed().as_secs(),
    }))
}

/// Liveness: always 200, because restarting the process does not repair an unhealthy dependency.
async fn live() -> Json<Value> {
    Json(json!({ "status": "healthy" }))
}

/// Readiness: 503 while the process drains or a required component is unhealthy.
async fn ready(State(health): State<Health>) -> Response {
    report(&health, health.is_ready())
}

/// Health: 503 while the process drains or any component is unhealthy, optional ones included.
async fn all_healthy(State(state): State<Health>) -> Response {
    report(&state, state.is_fully_healthy())
}

/// Reports the state of each component. The reason of an unhealthy one is only logged, because these routes need no
/// key.
fn report(health: &Health, is_good: bool) -> Response {
    let word = |is_healthy: bool| if is_healthy { "healthy" } else { "unhealthy" };
    let check = |(name, is_healthy)| (name, json!({ "status": word(is_healthy) }));
    let checks: serde_json::Map<String, Value> = health.components().into_iter().map(check).collect();
    let status = if health.is_draining() { "draining" } else { word(is_good) };
    let code = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "status": status, "checks": checks }))).into_response()
}

async fn render_metrics() -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render()).into_response()
}
