//! Problems, mounts, request ids, methods, panics, metrics.

use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use http::StatusCode;
use http_server::{ClientAddress, Dialect, ERROR_CODES, FieldError, Problem, QueryParams, RequestContext, Routes};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{Server, head, within};

fn api() -> Routes {
    let router = Router::new()
        .route("/things", get(|| async { "things" }).post(|| async { "made" }))
        .route("/things/{id}", get(|| async { Problem::not_found() }))
        .route("/conflict", get(conflict))
        .route("/busy", get(|| async { Problem::unavailable("too much at once", 0) }))
        .route("/panic", get(panics))
        .route("/plain", get(|| async { (StatusCode::BAD_REQUEST, "a framework's own words") }))
        .route("/own", get(|| async { (StatusCode::GONE, axum::Json(json!({ "mine": true }))) }))
        .route("/context", get(context))
        .route("/only-post", post(|| async {}));
    OpenApiRouter::from(router).routes(routes!(query)).routes(routes!(invalid)).routes(routes!(key)).into()
}

#[utoipa::path(get, path = "/invalid", params(("limit" = Option<u32>, Query), ("name" = Option<Vec<String>>, Query)))]
async fn invalid() -> Problem {
    let details = vec![FieldError { field: "limit".to_owned(), reason: "must be from 1 to 1000".to_owned() }];
    Problem::invalid("invalid_request", "limit must be from 1 to 1000").with_details(details)
}

#[utoipa::path(get, path = "/key", security(("key" = [])))]
async fn key() -> Problem {
    Problem::unauthorized("send a key")
}

async fn conflict() -> Problem {
    Problem::new(StatusCode::CONFLICT, "duplicate_event", "duplicate").with_field("event_id", "abc")
}

async fn panics() {
    panic!("on purpose");
}

async fn context(context: RequestContext, peer: ClientAddress) -> String {
    assert!(peer.0.is_loopback());
    let api = context.dialect == Dialect::Api;
    format!(
        "{} {} {}",
        context.request_id,
        context.traceparent.unwrap_or_default(),
        if api { "api" } else { "canonical" }
    )
}

#[utoipa::path(get, path = "/query", params(("limit" = Option<u32>, Query), ("name" = Option<Vec<String>>, Query)))]
async fn query(query: QueryParams) -> Result<String, Problem> {
    let limit = query.parse_in_range("limit", 1..=1000)?.unwrap_or(50);
    Ok(limit.to_string())
}

#[tokio::test]
async fn a_problem_has_all_members_and_the_path_of_the_request() {
    let server = Server::start(api()).await;
    let problem = server.get("/v1/invalid?limit=0").await.problem(400, "invalid_request");
    assert_eq!(problem["instance"], "/v1/invalid");
    assert_eq!(problem["title"], "Bad Request");
    assert_eq!(problem["details"], json!([{ "field": "limit", "reason": "must be from 1 to 1000" }]));
    let problem = server.get("/api/conflict").await.problem(409, "duplicate_event");
    assert_eq!(problem["event_id"], "abc");
    assert!(problem.get("details").is_none());
}

#[tokio::test]
async fn the_invalid_code_is_400_and_on_api_422() {
    let server = Server::start(api()).await;
    server.get("/v1/invalid").await.problem(400, "invalid_request");
    server.get("/invalid").await.problem(400, "invalid_request");
    server.get("/api/invalid").await.problem(422, "invalid_request");
    server.get("/api/query?limit=1001").await.problem(422, "invalid_request");
    server.get("/v1/query?limit=1&limit=2").await.problem(400, "invalid_request");
    assert_eq!(server.get("/query?limit=7").await.text(), "7");
}

#[tokio::test]
async fn a_parameter_that_the_route_does_not_declare_is_refused() {
    let server = Server::start(api()).await;
    for (path, reason) in [
        ("/v1/query?limt=7", "is not a parameter of this route; did you mean limit?"),
        ("/query?limit=7&limit%5B%5D=1", "is not a parameter of this route; did you mean limit?"),
        ("/v1/query?offset=7", "is not a parameter of this route; known: limit, name"),
        ("/v1/query?limit=7&limit=7", "is given more than once"),
        ("/v1/query?=7", "is not a parameter of this route; known: limit, name"),
        ("/v1/things?_=1", "is not a parameter of this route: there is none"),
        ("/v1/things/7?limit=1", "is not a parameter of this route: there is none"),
    ] {
        let problem = server.get(path).await.problem(400, "invalid_request");
        assert_eq!(problem["details"][0]["reason"], reason, "{path}");
    }
    server.request("POST /api/things?limit=1", &[], b"").await.problem(422, "invalid_request");
    let mut client = server.client().await;
    client.send(&head("HEAD /v1/query?limt=1", &[], 0)).await;
    assert_eq!(client.response_without_body().await.status, 400);
    server.get("/v1/key?limit=1").await.problem(401, "unauthorized");
}

#[tokio::test]
async fn declared_queries_empty_ones_and_wrong_methods_pass() {
    let server = Server::start(api()).await;
    assert_eq!(server.get("/v1/query?limit=7&name=a&name=b").await.text(), "7");
    assert_eq!(server.get("/v1/things?").await.text(), "things");
    assert_eq!(server.get("/api/things?&").await.text(), "things");
    server.request("DELETE /v1/things?x=1", &[], b"").await.problem(405, "method_not_allowed");
    server.get("/v1/nothing?x=1").await.problem(404, "route_not_found");
    assert_eq!(server.request("OPTIONS /v1/things?x=1", &[], b"").await.status, 204);
}

#[tokio::test]
async fn all_mounts_have_the_same_routes() {
    let server = Server::start(api()).await;
    for mount in ["/v1", "", "/api"] {
        assert_eq!(server.get(&format!("{mount}/things")).await.text(), "things");
        assert_eq!(server.request(&format!("POST {mount}/things"), &[], b"").await.text(), "made");
    }
    assert!(server.get("/api/context").await.text().ends_with(" api"));
    assert!(server.get("/v1/context").await.text().ends_with(" canonical"));
    assert!(server.get("/context").await.text().ends_with(" canonical"));
}

#[tokio::test]
async fn unknown_routes_are_404_and_wrong_methods_405_with_allow() {
    let server = Server::start(api()).await;
    for path in ["/nothing", "/v1/nothing", "/api/nothing", "/v1", "/api/", "/v1/things/", "/v2/things"] {
        server.get(path).await.problem(404, "route_not_found");
    }
    server.get("/v1/things/7").await.problem(404, "not_found");
    for mount in ["/v1", "", "/api"] {
        let response = server.request(&format!("DELETE {mount}/things"), &[], b"").await;
        response.problem(405, "method_not_allowed");
        assert_eq!(response.header("allow"), "GET,HEAD,POST");
    }
    server.request("BREW /v1/things", &[], b"").await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn options_is_answered_with_204_and_allow() {
    let server = Server::start(api()).await;
    let response = server.request("OPTIONS /v1/only-post", &[], b"").await;
    assert_eq!((response.status, response.header("allow"), response.text()), (204, "POST", ""));
    assert!(!response.headers.contains_key("content-type"));
    server.request("OPTIONS /v1/nothing", &[], b"").await.problem(404, "route_not_found");
}

#[tokio::test]
async fn head_is_answered_like_get_without_a_body() {
    let server = Server::start(api()).await;
    let mut client = server.client().await;
    for (path, status, length) in [("/v1/things", 200, Some("6")), ("/v1/invalid", 400, None)] {
        client.send(format!("HEAD {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await;
        let response = client.response_without_body().await;
        assert_eq!(response.status, status);
        assert!(length.is_none_or(|length| response.header("content-length") == length), "{response:?}");
    }
    client.send(b"GET /v1/things HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "things");
}

#[tokio::test]
async fn a_valid_request_id_is_kept_and_an_invalid_one_replaced() {
    let server = Server::start(api()).await;
    for header in ["x-request-id: mine-1", "X-Correlation-Id: mine-1"] {
        let response = server.request("GET /v1/context", &[header], b"").await;
        assert!(response.text().starts_with("mine-1 "));
        assert_eq!(response.header("x-request-id"), "mine-1");
        assert_eq!(response.header("x-correlation-id"), "mine-1");
    }
    let long = format!("x-request-id: {}", "a".repeat(129));
    for invalid in ["x-request-id: two words", &long, "x-request-id: \u{e9}", "x-request-id:"] {
        let response = server.request("GET /v1/context", &[invalid], b"").await;
        assert!(Uuid::parse_str(response.header("x-request-id")).is_ok(), "{invalid}");
    }
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let response = server.request("GET /v1/context", &[&format!("traceparent: {traceparent}")], b"").await;
    assert!(response.text().contains(traceparent));
}

#[tokio::test]
async fn the_response_time_is_in_milliseconds_with_one_decimal() {
    let server = Server::start(api()).await;
    let response = server.get("/v1/things").await;
    let time = response.header("x-response-time").strip_suffix("ms").unwrap();
    let (whole, tenths) = time.split_once('.').unwrap();
    assert!(whole.parse::<u32>().is_ok() && tenths.len() == 1, "{time}");
}

#[tokio::test]
async fn a_panic_is_a_500_without_its_reason() {
    let server = Server::start(api()).await;
    let response = server.get("/v1/panic").await;
    response.problem(500, "internal_error");
    assert!(!response.text().contains("on purpose"));
    assert_eq!(server.get("/v1/things").await.status, 200);
}

#[tokio::test]
async fn plain_text_errors_become_problems_and_json_errors_stay() {
    let server = Server::start(api()).await;
    let response = server.get("/api/plain").await;
    response.problem(422, "invalid_request");
    assert!(!response.text().contains("own words"));
    let response = server.get("/v1/own").await;
    assert_eq!((response.status, response.json()), (410, json!({ "mine": true })));
}

#[tokio::test]
async fn problems_keep_their_headers() {
    let server = Server::start(api()).await;
    let response = server.get("/v1/busy").await;
    response.problem(503, "unavailable");
    assert_eq!(response.header("retry-after"), "1");
    let response = server.get("/v1/key").await;
    response.problem(401, "unauthorized");
    assert_eq!(response.header("www-authenticate"), "Bearer");
}

#[test]
fn the_text_of_every_429_begins_with_rate_limit_exceeded() {
    let new = |detail: &str| Problem::new(StatusCode::TOO_MANY_REQUESTS, "slow_down", detail);
    for problem in [
        new("ten a day"),
        new("Rate limit exceeded: ten a day"),
        Problem::unavailable("busy", 1).with_detail("ten a day"),
        new("twenty a day").with_detail("ten a day"),
        Problem::too_many_requests("ten a day", 1),
        Problem::too_much_at_once("ten a day"),
    ] {
        let is_429 = problem.status(Dialect::Canonical) == StatusCode::TOO_MANY_REQUESTS;
        assert_eq!(problem.detail(), if is_429 { "Rate limit exceeded: ten a day" } else { "ten a day" });
    }
    for code in ERROR_CODES.iter().filter(|code| code.status == 429) {
        assert_eq!(new(code.example).detail(), code.example, "the described text of {}", code.code);
    }
}

#[tokio::test]
async fn requests_are_counted_by_template_and_never_by_path() {
    let server = Server::start(Router::new().route("/counted/{id}", get(|| async {}))).await;
    for id in ["secret-1", "secret-2"] {
        server.get(&format!("/v1/counted/{id}")).await;
        server.get(&format!("/uncounted/{id}")).await;
    }
    server.request("BREW /v1/counted/secret-3", &[], b"").await;
    let text = runtime::telemetry::metrics::render();
    assert!(
        text.contains("triggers_http_requests_total{method=\"GET\",route=\"/v1/counted/{id}\",status=\"200\"} 2\n"),
        "{text}"
    );
    assert!(
        text.contains("triggers_http_requests_total{method=\"OTHER\",route=\"/v1/counted/{id}\",status=\"405\"} 1\n"),
        "{text}"
    );
    assert!(text.contains("triggers_http_request_duration_seconds_count{route=\"/v1/counted/{id}\"} 3\n"), "{text}");
    assert!(text.contains("route=\"unmatched\""), "{text}");
    assert!(!text.contains("secret-"), "{text}");
}

#[tokio::test]
async fn a_request_whose_client_leaves_is_counted_too() {
    let server = Server::start(Router::new().route("/abandoned", get(std::future::pending::<()>))).await;
    let mut client = server.client().await;
    client.send(&head("GET /v1/abandoned", &[], 0)).await;
    drop(client);
    let counted = "triggers_http_requests_total{method=\"GET\",route=\"/v1/abandoned\",status=\"cancelled\"} 1\n";
    within("the count", async {
        while !runtime::telemetry::metrics::render().contains(counted) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
