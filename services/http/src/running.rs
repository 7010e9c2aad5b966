//! What a process tells of itself without a key: status, health and metrics.

use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::mount::{MountOptions, with_edge};
use runtime::health::Health;
use runtime::telemetry::metrics;

/// Who is answering.
#[derive(Debug, Clone, Copy)]
pub struct ServiceInfo {
    /// Of the product.
    pub name: &'static str,
    /// Which part of it this process is.
    pub role: &'static str,
    /// Of the build.
    pub version: &'static str,
    /// When the process began.
    pub started: Instant,
}

impl ServiceInfo {
    /// A service that starts now.
    pub fn new(name: &'static str, role: &'static str, version: &'static str) -> Self {
        Self { name, role, version, started: Instant::now() }
    }
}

/// All running routes: [`probe_routes`] and [`metrics_route`].
pub fn routes(info: ServiceInfo, health: Health) -> Router {
    probe_routes(info, health).merge(metrics_route())
}

/// Status and health, at the root and under each mount.
pub fn probe_routes(info: ServiceInfo, health: Health) -> Router {
    let mut routes = Router::new();
    for path in ["/", "/status", "/v1/status", "/api/status"] {
        routes = routes.route(path, get(move || async move { status(info) }));
    }
    for mount in ["", "/v1", "/api"] {
        routes = routes
            .route(&format!("{mount}/health"), get(all))
            .route(&format!("{mount}/health/detailed"), get(all))
            .route(&format!("{mount}/health/ready"), get(ready))
            .route(&format!("{mount}/health/live"), get(live));
    }
    with_edge(routes.with_state(health), MountOptions::default())
}

/// `/metrics` alone, for a port of its own.
pub fn metrics_route() -> Router {
    with_edge(Router::new().route("/metrics", get(render_metrics)), MountOptions::default())
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

/// The process answers, so it is alive. A dependency that is unhealthy is no reason to restart it.
async fn live() -> Json<Value> {
    Json(json!({ "status": "healthy" }))
}

/// Whether this process may get work: 503 while it drains or a required component is unhealthy.
async fn ready(State(health): State<Health>) -> Response {
    report(&health, health.is_ready())
}

/// Whether every component is healthy: 503 while it drains or any component is unhealthy, optional ones included.
async fn all(State(health): State<Health>) -> Response {
    report(&health, health.is_fully_healthy())
}

/// The state of each component. The reason of an unhealthy one is in the log only: clients may be strangers.
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
