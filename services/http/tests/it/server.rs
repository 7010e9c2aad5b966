//! Slow clients, `Host` headers, connection limits and shutdown.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use futures_util::StreamExt;
use http_server::{MountOptions, ServerLimits, mount};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Server, head, within};

const SHORT: Duration = Duration::from_millis(300);

/// Controls the routes `/blocked`, which answers when it is released, and `/endless`, which reports when its body is
/// dropped.
struct BlockedRoutes {
    entered: Arc<Semaphore>,
    release: Arc<Notify>,
    endless_dropped: CancellationToken,
}

fn api() -> (Router, BlockedRoutes) {
    let (entered, release) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let (enter, wait) = (entered.clone(), release.clone());
    let blocked = move || {
        let (enter, wait) = (enter.clone(), wait.clone());
        async move {
            enter.add_permits(1);
            wait.notified().await;
            "released"
        }
    };
    let endless_dropped = CancellationToken::new();
    let token = endless_dropped.clone();
    let endless = move || {
        let guard = token.clone().drop_guard();
        let pieces = futures_util::stream::repeat(Bytes::from(vec![b'x'; 64 * 1024]));
        async move {
            Body::from_stream(pieces.map(move |piece| {
                let _held_until_the_body_is_dropped = &guard;
                Ok::<_, Infallible>(piece)
            }))
        }
    };
    let router = Router::new()
        .route("/things", get(|| async { "things" }))
        .route("/read", post(|body: http_server::RequestBody| async move { body.bytes.len().to_string() }))
        .route("/blocked", get(blocked))
        .route("/endless", get(endless));
    (router, BlockedRoutes { entered, release, endless_dropped })
}

async fn start(limits: ServerLimits) -> (Server, BlockedRoutes) {
    let (api, routes) = api();
    (Server::start_with(mount(api, MountOptions::default()), limits).await, routes)
}

#[tokio::test]
async fn a_client_with_slow_headers_is_dropped_others_are_served() {
    let (server, _routes) = start(ServerLimits { header_read_timeout: SHORT, ..ServerLimits::default() }).await;
    let mut silent = server.client().await;
    let mut slow = server.client().await;
    slow.send(b"GET /v1/things HTTP/1.1\r\nhost: loc").await;
    let started = Instant::now();
    assert_eq!(server.get("/v1/things").await.text(), "things");
    assert!(slow.closed().await);
    assert!(silent.closed().await);
    assert!(started.elapsed() < SHORT * 10, "{:?}", started.elapsed());
}

#[tokio::test]
async fn headers_that_trickle_in_do_not_extend_the_timeout() {
    let (server, _routes) = start(ServerLimits { header_read_timeout: SHORT, ..ServerLimits::default() }).await;
    let mut client = server.client().await;
    client.send(b"GET /v1/things HTTP/1.1\r\nx: ").await;
    within("the drop of the trickling client", async {
        loop {
            client.send(b"x").await;
            if tokio::time::timeout(Duration::from_millis(20), client.closed()).await.is_ok() {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_outlives_the_header_timeout() {
    let limits =
        ServerLimits { header_read_timeout: SHORT, idle_timeout: Duration::from_secs(60), ..ServerLimits::default() };
    let (server, _routes) = start(limits).await;
    let mut client = server.client().await;
    for _ in 0..2 {
        client.send(&head("GET /v1/things", &[], 0)).await;
        assert_eq!(client.response().await.text(), "things");
        assert!(tokio::time::timeout(SHORT * 3, client.closed()).await.is_err(), "closed while idle");
    }
    // The header timeout of the next request counts from its first byte.
    client.send(b"GET /v1/thi").await;
    assert!(client.closed().await);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let (server, _routes) = start(ServerLimits { idle_timeout: SHORT, ..ServerLimits::default() }).await;
    let mut client = server.client().await;
    client.send(&head("GET /v1/things", &[], 0)).await;
    client.response().await;
    assert!(client.closed().await);
}

#[tokio::test]
async fn no_client_timeout_applies_while_a_handler_runs() {
    let limits = ServerLimits {
        header_read_timeout: SHORT,
        idle_timeout: SHORT,
        body_read_timeout: SHORT,
        write_stall_timeout: SHORT,
        ..ServerLimits::default()
    };
    let (server, routes) = start(limits).await;
    let mut client = server.client().await;
    client.send(&head("GET /v1/blocked", &[], 0)).await;
    assert!(tokio::time::timeout(SHORT * 3, client.closed()).await.is_err(), "closed while its request was open");
    routes.release.notify_one();
    assert_eq!(client.response().await.text(), "released");
}

#[tokio::test]
async fn a_client_that_does_not_read_the_response_is_dropped() {
    let (server, routes) = start(ServerLimits { write_stall_timeout: SHORT, ..ServerLimits::default() }).await;
    let mut client = server.client().await;
    client.send(&head("GET /v1/endless", &[], 0)).await;
    within("the drop of the response body", routes.endless_dropped.cancelled()).await;
}

#[tokio::test]
async fn headers_over_the_limit_are_refused() {
    let (server, _routes) = start(ServerLimits::default()).await;
    let large = format!("x-large: {}", "x".repeat(40 * 1024));
    server.request("GET /v1/things", &[&large], b"").await.assert_bare(431);
    let fitting = format!("x-large: {}", "x".repeat(30 * 1024));
    assert_eq!(server.request("GET /v1/things", &[&fitting], b"").await.status, 200);
}

#[tokio::test]
async fn invalid_http_is_refused_with_a_400_without_body() {
    let (server, _routes) = start(ServerLimits::default()).await;
    for nonsense in [
        "nonsense\r\n\r\n",
        "GET /v1/things HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n",
        "GET /v1/things HTTP/9.9\r\n\r\n",
    ] {
        let mut client = server.client().await;
        client.send(nonsense.as_bytes()).await;
        client.response().await.assert_bare(400);
        assert!(client.closed().await, "{nonsense:?} left its connection open");
    }
}

#[tokio::test]
async fn on_loopback_a_foreign_host_gets_421() {
    let (server, _routes) = start(ServerLimits::default()).await;
    for foreign in
        ["host: example.com", "host: localhost.example.com:80", "host: localhost\r\nhost: example.com", "host:"]
    {
        server.request("GET /v1/things", &[foreign], b"").await.problem(421, "misdirected_request");
    }
    for local in ["host: localhost", "host: LOCALHOST:1", "host: 127.0.0.1:8080", "host: [::1]:8080", "host: [::1]"] {
        assert_eq!(server.request("GET /v1/things", &[local], b"").await.status, 200, "{local}");
    }
    server.request("GET http://example.com/v1/things", &[], b"").await.problem(421, "misdirected_request");
    assert_eq!(server.request("GET http://localhost:1/v1/things", &[], b"").await.text(), "things");
    let mut client = server.client().await;
    client.send(b"GET /v1/things HTTP/1.0\r\n\r\n").await;
    client.response().await.problem(421, "misdirected_request");
}

#[tokio::test]
async fn connections_over_the_limit_are_refused_until_one_closes() {
    let (server, _routes) = start(ServerLimits { max_connections: 2, ..ServerLimits::default() }).await;
    let (mut first, mut second) = (server.client().await, server.client().await);
    for client in [&mut first, &mut second] {
        client.send(&head("GET /v1/things", &[], 0)).await;
        assert_eq!(client.response().await.status, 200);
    }
    let refused = server.client().await.response().await;
    assert_eq!(refused.header("retry-after"), "1");
    refused.problem(503, "too_many_connections");
    drop(first);
    within("room for a connection", async {
        while server.get("/v1/things").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn shutdown_waits_for_open_requests_and_closes_idle_connections() {
    let (mut server, routes) = start(ServerLimits::default()).await;
    let (mut idle, mut fresh, mut open) = (server.client().await, server.client().await, server.client().await);
    idle.send(&head("GET /v1/things", &[], 0)).await;
    idle.response().await;
    open.send(&head("GET /v1/blocked", &[], 0)).await;
    within("the handler", routes.entered.acquire()).await.unwrap().forget();
    server.shutdown.cancel();
    assert!(idle.closed().await);
    assert!(fresh.closed().await);
    assert!(!server.task.is_finished());
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err(), "still accepting");
    routes.release.notify_one();
    assert_eq!(open.response().await.text(), "released");
    within("the end of the server", &mut server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_aborts_open_requests_at_the_deadline() {
    let (mut server, routes) = start(ServerLimits { shutdown_deadline: SHORT, ..ServerLimits::default() }).await;
    let mut open = server.client().await;
    open.send(&head("GET /v1/blocked", &[], 0)).await;
    within("the handler", routes.entered.acquire()).await.unwrap().forget();
    let started = Instant::now();
    server.shutdown.cancel();
    within("the end of the server", &mut server.task).await.unwrap().unwrap();
    assert!((SHORT..SHORT * 10).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert!(open.closed().await);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (server, _routes) = start(ServerLimits::default()).await;
    let mut client = server.client().await;
    let requests = [head("POST /v1/read", &[], 3), b"abc".to_vec(), head("GET /v1/things", &[], 0)].concat();
    client.send(&requests).await;
    assert_eq!(client.response().await.text(), "3");
    assert_eq!(client.response().await.text(), "things");
}
