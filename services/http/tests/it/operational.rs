//! Status, health and metrics.

use axum::Router;
use axum::routing::get;
use http_server::{MountOptions, ServerLimits, ServiceInfo, mount, operational_routes};
use runtime::health::Health;
use serde_json::json;

use super::Server;

async fn start(health: &Health) -> Server {
    let info = ServiceInfo::new("triggers", "ingest", "1.2.3");
    let api = Router::new().route("/things", get(|| async { "things" }));
    let router = mount(api, MountOptions::default()).merge(operational_routes(info, health.clone()));
    Server::start_with(router, ServerLimits::default()).await
}

#[tokio::test]
async fn the_status_names_the_service_without_a_key() {
    let server = start(&Health::new()).await;
    for path in ["/", "/status", "/v1/status", "/api/status"] {
        let status = server.get(path).await.json();
        assert_eq!((status["name"].as_str(), status["version"].as_str()), (Some("triggers"), Some("1.2.3")));
        assert!(status["uptime_seconds"].is_u64());
    }
    assert_eq!(server.get("/v1/things").await.text(), "things");
}

#[tokio::test]
async fn health_reports_each_component_without_a_reason() {
    let health = Health::new();
    let (kafka, postgres) = (health.component("kafka"), health.component("postgres"));
    let server = start(&health).await;
    postgres.report_healthy();
    kafka.report_unhealthy("the password is hunter2");
    for path in ["/health", "/v1/health", "/api/health", "/health/ready", "/v1/health/ready", "/api/health/detailed"] {
        let response = server.get(path).await;
        let checks = json!({ "kafka": { "status": "unhealthy" }, "postgres": { "status": "healthy" } });
        let expected = json!({ "status": "unhealthy", "checks": checks });
        assert_eq!((response.status, response.json()), (503, expected), "{path}");
    }
    kafka.report_healthy();
    let response = server.get("/health/ready").await;
    assert_eq!((response.status, &response.json()["status"]), (200, &json!("healthy")));
}

#[tokio::test]
async fn an_unhealthy_optional_component_leaves_the_process_ready() {
    let health = Health::new();
    health.component("kafka").report_healthy();
    health.optional("postgres").report_unhealthy("gone");
    let server = start(&health).await;
    let (ready, whole) = (server.get("/health/ready").await, server.get("/health").await);
    assert_eq!((ready.status, whole.status), (200, 503));
    let checks = json!({ "kafka": { "status": "healthy" }, "postgres": { "status": "unhealthy" } });
    assert_eq!(ready.json(), json!({ "status": "healthy", "checks": checks }));
    assert_eq!(whole.json(), json!({ "status": "unhealthy", "checks": checks }));
}

#[tokio::test]
async fn a_draining_process_is_not_ready_but_lives() {
    let health = Health::new();
    health.component("kafka").report_healthy();
    let server = start(&health).await;
    health.set_draining();
    let response = server.get("/health/ready").await;
    assert_eq!((response.status, &response.json()["status"]), (503, &json!("draining")));
    for path in ["/health/live", "/v1/health/live"] {
        assert_eq!(server.get(path).await.status, 200);
    }
}

#[tokio::test]
async fn a_probe_with_a_query_is_answered() {
    let server = start(&Health::new()).await;
    for path in ["/", "/status", "/health", "/health/ready", "/health/live", "/v1/health/detailed", "/metrics"] {
        assert_eq!(server.get(&format!("{path}?probe=1")).await.status, server.get(path).await.status, "{path}");
    }
}

#[tokio::test]
async fn metrics_are_rendered_as_text() {
    let server = start(&Health::new()).await;
    server.get("/v1/things").await;
    let response = server.get("/metrics").await;
    assert!(response.header("content-type").starts_with("text/plain"));
    for name in ["triggers_http_requests_total{", "triggers_http_connections ", "process_resident_memory_bytes "] {
        assert!(response.text().lines().any(|line| line.starts_with(name)), "{name}");
    }
}

#[tokio::test]
async fn unknown_paths_are_problems_without_an_api_too() {
    let info = ServiceInfo::new("triggers", "materializer", "1.2.3");
    let router = Router::new().merge(operational_routes(info, Health::new()));
    let server = Server::start_with(router, ServerLimits::default()).await;
    server.get("/v1/things").await.problem(404, "route_not_found");
    server.request("POST /health", &[], b"").await.problem(405, "method_not_allowed");
}
