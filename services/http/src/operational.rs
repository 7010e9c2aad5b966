//! Routes for operators, without an API key: status, health and metrics.

use std::collections::BTreeMap;
use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use http::{StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

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

/// What [`probe_routes`] say of themselves, at the root.
pub fn probe_openapi() -> OpenApi {
    let described = OpenApiRouter::<Health>::new().routes(routes!(live)).routes(routes!(ready));
    described.routes(routes!(all_healthy)).routes(routes!(status)).into_openapi()
}

/// Status and health, at the root and under `/v1` and `/api`.
pub fn probe_routes(info: ServiceInfo, health: Health) -> Router {
    let mut routes = Router::new();
    for path in ["/", "/status", "/v1/status", "/api/status"] {
        routes = routes.route(path, get(status));
    }
    for mount in ["", "/v1", "/api"] {
        routes = routes
            .route(&format!("{mount}/health"), get(all_healthy))
            .route(&format!("{mount}/health/detailed"), get(all_healthy))
            .route(&format!("{mount}/health/ready"), get(ready))
            .route(&format!("{mount}/health/live"), get(live));
    }
    // A query is not refused: these routes filter nothing, and a load balancer that adds one must not take the process
    // for broken.
    with_request_layer(routes.layer(Extension(info)).with_state(health), &MountOptions::default())
}

/// `/metrics` alone, for a separate port.
pub fn metrics_route() -> Router {
    with_request_layer(Router::new().route("/metrics", get(render_metrics)), &MountOptions::default())
}

/// The program that answers.
#[derive(Serialize, ToSchema)]
#[schema(as = Status, example = json!({
    "name": "triggers", "role": "ingest", "version": "0.1.0", "status": "healthy", "uptime_seconds": 3600
}))]
struct StatusBody {
    name: &'static str,
    role: &'static str,
    version: &'static str,
    /// Always `healthy`.
    status: &'static str,
    uptime_seconds: u64,
}

/// Name, role, version and uptime
#[utoipa::path(
    get, path = "/status", operation_id = "get_status", tag = "Running",
    responses((status = 200, description = "It runs.", body = StatusBody)),
)]
async fn status(Extension(info): Extension<ServiceInfo>) -> Json<StatusBody> {
    Json(StatusBody {
        name: info.name,
        role: info.role,
        version: info.version,
        status: "healthy",
        uptime_seconds: info.started.elapsed().as_secs(),
    })
}

/// Whether the process lives.
#[derive(Serialize, ToSchema)]
#[schema(as = Liveness, example = json!({"status": "healthy"}))]
struct LivenessBody {
    /// Always `healthy`.
    status: &'static str,
}

/// The state of each component. Reasons are in the logs.
#[derive(Serialize, ToSchema)]
#[schema(as = Health, example = json!({
    "status": "healthy", "checks": {"kafka": {"status": "healthy"}, "postgres": {"status": "healthy"}}
}))]
struct HealthBody {
    /// `healthy`, `unhealthy` or `draining`.
    status: &'static str,
    checks: BTreeMap<String, CheckBody>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = HealthCheck)]
struct CheckBody {
    /// `healthy` or `unhealthy`.
    status: &'static str,
}

/// Liveness
///
/// Always 200: restarting the process does not repair an unhealthy dependency.
#[utoipa::path(
    get, path = "/health/live", operation_id = "get_liveness", tag = "Running",
    responses((status = 200, description = "It lives.", body = LivenessBody)),
)]
async fn live() -> Json<LivenessBody> {
    Json(LivenessBody { status: "healthy" })
}

/// Readiness
///
/// 503 while the process drains or a component is unhealthy without which it cannot work.
#[utoipa::path(
    get, path = "/health/ready", operation_id = "get_readiness", tag = "Running",
    responses(
        (status = 200, description = "It is ready.", body = HealthBody),
        (status = 503, description = "It is not ready.", body = HealthBody),
    ),
)]
async fn ready(State(health): State<Health>) -> Response {
    report(&health, health.is_ready())
}

/// Health
///
/// 503 while the process drains or any component is unhealthy, optional ones included.
#[utoipa::path(
    get, path = "/health", operation_id = "get_health", tag = "Running",
    responses(
        (status = 200, description = "All components are healthy.", body = HealthBody),
        (status = 503, description = "Not all components are healthy.", body = HealthBody),
    ),
)]
async fn all_healthy(State(state): State<Health>) -> Response {
    report(&state, state.is_fully_healthy())
}

/// Reports the state of each component. The reason of an unhealthy one is only logged, because these routes need no
/// key.
fn report(health: &Health, is_good: bool) -> Response {
    let word = |is_healthy: bool| if is_healthy { "healthy" } else { "unhealthy" };
    let check = |(name, is_healthy)| (name, CheckBody { status: word(is_healthy) });
    let checks = health.components().into_iter().map(check).collect();
    let status = if health.is_draining() { "draining" } else { word(is_good) };
    let code = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(HealthBody { status, checks })).into_response()
}

async fn render_metrics() -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render()).into_response()
}
