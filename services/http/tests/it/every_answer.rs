//! What every answer has, also those that no handler makes: preflights, refusals of the router, panics.

use axum::Router;
use axum::routing::{get, post};
use http::StatusCode;
use http_server::{CorsOrigins, MountOptions, RequestBody, ServerLimits, ServiceInfo, mount, operational_routes};
use runtime::health::Health;

use super::{Response, Server};

const ORIGIN: &str = "origin: https://app.example.com";
const PREFLIGHT: [&str; 3] =
    [ORIGIN, "access-control-request-method: POST", "access-control-request-headers: authorization"];

async fn panics() {
    panic!("on purpose");
}

async fn start() -> Server {
    let api = Router::new()
        .route("/things", get(|| async { "things" }).post(|_: RequestBody| async { StatusCode::CREATED }))
        .route("/panic", post(panics));
    let options =
        MountOptions { cors: CorsOrigins::parse("https://app.example.com").unwrap(), ..MountOptions::default() };
    let info = ServiceInfo::new("triggers", "ingest", "1.2.3");
    let router = mount(api, options).merge(operational_routes(info, Health::new()));
    Server::start_with(router, ServerLimits { max_connections_per_peer: 2, ..ServerLimits::default() }).await
}

#[track_caller]
fn assert_has_all(response: &Response, of: &str) {
    assert_eq!(response.header("x-content-type-options"), "nosniff", "{of}");
    assert!(response.headers.contains_key("cache-control"), "{of}: {response:?}");
    assert!(response.header("x-response-time").ends_with("ms"), "{of}");
    assert_eq!(response.header("x-request-id"), response.header("x-correlation-id"), "{of}");
}

#[tokio::test]
async fn every_answer_has_ids_a_time_and_nosniff() {
    let server = start().await;
    let too_large = vec![b'x'; 600 * 1024];
    for (request, lines, body, status) in [
        ("GET /v1/things", &[][..], &b""[..], 200),
        ("HEAD /v1/things", &[], b"", 200),
        ("OPTIONS /v1/things", &[], b"", 204),
        ("OPTIONS /v1/things", &PREFLIGHT, b"", 204),
        ("OPTIONS /api/things", &PREFLIGHT, b"", 204),
        ("OPTIONS /status", &PREFLIGHT, b"", 204),
        ("OPTIONS /metrics", &[], b"", 204),
        ("GET /v1/things?x=1", &[], b"", 400),
        ("GET /v1/nothing", &[ORIGIN], b"", 404),
        ("DELETE /v1/things", &[ORIGIN], b"", 405),
        ("POST /status", &[], b"", 405),
        ("POST /v1/things", &["content-encoding: br"], b"x", 415),
        ("POST /v1/things", &[], &too_large, 413),
        ("POST /v1/panic", &[ORIGIN], b"", 500),
        ("GET /v1/things", &["host: example.com"], b"", 421),
        ("GET /health", &[], b"", 200),
        ("GET /metrics", &[], b"", 200),
    ] {
        let mut client = server.client().await;
        client.send(&super::head(request, lines, body.len())).await;
        client.send(body).await;
        let has_body = !request.starts_with("HEAD");
        let response = if has_body { client.response().await } else { client.response_without_body().await };
        assert_eq!(response.status, status, "{request}");
        assert_has_all(&response, request);
        if request.starts_with("OPTIONS") || status == 405 {
            assert!(response.header("allow").contains("GET"), "{request}: {response:?}");
        }
        assert!(status < 400 || response.header("content-type") == "application/problem+json", "{request}");
    }
    let _open = (server.client().await, server.client().await);
    let refused = server.client().await.response().await;
    assert_eq!(refused.status, 429);
    assert_has_all(&refused, "a refused connection");
}

#[tokio::test]
async fn a_preflight_says_what_a_page_may_do() {
    let server = start().await;
    let response = server.request("OPTIONS /v1/things", &PREFLIGHT, b"").await;
    assert_eq!((response.status, response.text(), response.header("allow")), (204, "", "GET,HEAD,POST"));
    assert_eq!(response.header("access-control-allow-origin"), "https://app.example.com");
    assert!(response.header("access-control-allow-methods").contains("POST"), "{response:?}");
    assert_eq!(response.header("access-control-allow-headers"), "authorization");
    assert!(!response.headers.contains_key("content-type"), "{response:?}");
    let foreign = server.request("OPTIONS /v1/things", &["origin: https://example.com"], b"").await;
    assert!(!foreign.headers.contains_key("access-control-allow-origin"), "{foreign:?}");
    let refused = server.request("GET /v1/nothing", &[ORIGIN], b"").await;
    assert_eq!(refused.header("access-control-allow-origin"), "https://app.example.com", "a page reads why");
}
