//! The server: slow clients, hosts, connections, the end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use futures_util::StreamExt;
use platform::http::{MountOptions, ServerLimits, mount};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Server, head, within};

const SHORT: Duration = Duration::from_millis(300);

/// Routes of which `/held` answers when it is let go, and `/endless` says when its answer is given up.
struct Held {
    entered: Arc<Semaphore>,
    let_go: Arc<Notify>,
    endless_ended: CancellationToken,
}

fn api() -> (Router, Held) {
    let (entered, let_go) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let (enter, wait) = (entered.clone(), let_go.clone());
    let hold = move || {
        let (enter, wait) = (enter.clone(), wait.clone());
        async move {
            enter.add_permits(1);
            wait.notified().await;
            "let go"
        }
    };
    let endless_ended = CancellationToken::new();
    let token = endless_ended.clone();
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
        .route("/read", post(|body: platform::http::Body| async move { body.bytes.len().to_string() }))
        .route("/held", get(hold))
        .route("/endless", get(endless));
    (router, Held { entered, let_go, endless_ended })
}

async fn start(limits: ServerLimits) -> (Server, Held) {
    let (api, held) = api();
    (Server::start_with(mount(api, MountOptions::default()), limits).await, held)
}

#[tokio::test]
async fn slow_headers_end_the_connection_while_others_are_answered() {
    let (server, _held) = start(ServerLimits { header_read_timeout: SHORT, ..ServerLimits::default() }).await;
    let mut silent = server.client().await;
    let mut slow = server.client().await;
    slow.send(b"GET /v1/things HTTP/1.1\r\nhost: loc").await;
    let begun = Instant::now();
    assert_eq!(server.get("/v1/things").await.text(), "things");
    assert!(slow.closed().await);
    assert!(silent.closed().await);
    assert!(begun.elapsed() < SHORT * 10, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn headers_that_drip_steadily_do_not_gain_time() {
    let (server, _held) = start(ServerLimits { header_read_timeout: SHORT, ..ServerLimits::default() }).await;
    let mut client = server.client().await;
    client.send(b"GET /v1/things HTTP/1.1\r\nx: ").await;
    within("the end of a dripping client", async {
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
async fn an_idle_connection_outlives_the_time_for_headers() {
    let limits =
        ServerLimits { header_read_timeout: SHORT, idle_timeout: Duration::from_secs(60), ..ServerLimits::default() };
    let (server, _held) = start(limits).await;
    let mut client = server.client().await;
    for _ in 0..2 {
        client.send(&head("GET /v1/things", &[], 0)).await;
        assert_eq!(client.answer().await.text(), "things");
        assert!(tokio::time::timeout(SHORT * 3, client.closed()).await.is_err(), "closed while idle");
    }
    // The next request has the time for headers again, counted from its first byte.
    client.send(b"GET /v1/thi").await;
    assert!(client.closed().await);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_own_time() {
    let (server, _held) = start(ServerLimits { idle_timeout: SHORT, ..ServerLimits::default() }).await;
    let mut client = server.client().await;
    client.send(&head("GET /v1/things", &[], 0)).await;
    client.answer().await;
    assert!(client.closed().await);
}

#[tokio::test]
async fn a_handler_may_take_longer_than_every_limit_on_clients() {
    let limits = ServerLimits {
        header_read_timeout: SHORT,
        idle_timeout: SHORT,
        body_read_timeout: SHORT,
        write_stall_timeout: SHORT,
        ..ServerLimits::default()
    };
    let (server, held) = start(limits).await;
    let mut client = server.client().await;
    client.send(&head("GET /v1/held", &[], 0)).await;
    assert!(tokio::time::timeout(SHORT * 3, client.closed()).await.is_err(), "closed while its request was open");
    held.let_go.notify_one();
    assert_eq!(client.answer().await.text(), "let go");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_dropped() {
    let (server, held) = start(ServerLimits { write_stall_timeout: SHORT, ..ServerLimits::default() }).await;
    let mut client = server.client().await;
    client.send(&head("GET /v1/endless", &[], 0)).await;
    within("the end of the answer", held.endless_ended.cancelled()).await;
}

#[tokio::test]
async fn headers_over_the_limit_are_refused() {
    let (server, _held) = start(ServerLimits::default()).await;
    let large = format!("x-large: {}", "x".repeat(40 * 1024));
    server.ask("GET /v1/things", &[&large], b"").await.bare(431);
    let fitting = format!("x-large: {}", "x".repeat(30 * 1024));
    assert_eq!(server.ask("GET /v1/things", &[&fitting], b"").await.status, 200);
}

#[tokio::test]
async fn what_is_no_http_is_refused_with_a_bare_400() {
    let (server, _held) = start(ServerLimits::default()).await;
    for nonsense in [
        "nonsense\r\n\r\n",
        "GET /v1/things HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n",
        "GET /v1/things HTTP/9.9\r\n\r\n",
    ] {
        let mut client = server.client().await;
        client.send(nonsense.as_bytes()).await;
        client.answer().await.bare(400);
        assert!(client.closed().await, "{nonsense:?} left its connection open");
    }
}

#[tokio::test]
async fn on_loopback_a_foreign_host_gets_421() {
    let (server, _held) = start(ServerLimits::default()).await;
    for foreign in
        ["host: example.com", "host: localhost.example.com:80", "host: localhost\r\nhost: example.com", "host:"]
    {
        server.ask("GET /v1/things", &[foreign], b"").await.problem(421, "misdirected_request");
    }
    for local in ["host: localhost", "host: LOCALHOST:1", "host: 127.0.0.1:8080", "host: [::1]:8080", "host: [::1]"] {
        assert_eq!(server.ask("GET /v1/things", &[local], b"").await.status, 200, "{local}");
    }
    server.ask("GET http://example.com/v1/things", &[], b"").await.problem(421, "misdirected_request");
    assert_eq!(server.ask("GET http://localhost:1/v1/things", &[], b"").await.text(), "things");
    let mut client = server.client().await;
    client.send(b"GET /v1/things HTTP/1.0\r\n\r\n").await;
    client.answer().await.problem(421, "misdirected_request");
}

#[tokio::test]
async fn connections_beyond_the_bound_are_refused_and_accepted_again_later() {
    let (server, _held) = start(ServerLimits { max_connections: 2, ..ServerLimits::default() }).await;
    let (mut first, mut second) = (server.client().await, server.client().await);
    for client in [&mut first, &mut second] {
        client.send(&head("GET /v1/things", &[], 0)).await;
        assert_eq!(client.answer().await.status, 200);
    }
    let refused = server.client().await.answer().await;
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
    let (mut server, held) = start(ServerLimits::default()).await;
    let (mut idle, mut fresh, mut open) = (server.client().await, server.client().await, server.client().await);
    idle.send(&head("GET /v1/things", &[], 0)).await;
    idle.answer().await;
    open.send(&head("GET /v1/held", &[], 0)).await;
    within("the handler", held.entered.acquire()).await.unwrap().forget();
    server.shutdown.cancel();
    assert!(idle.closed().await);
    assert!(fresh.closed().await);
    assert!(!server.ended.is_finished());
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err(), "still accepting");
    held.let_go.notify_one();
    assert_eq!(open.answer().await.text(), "let go");
    within("the end", &mut server.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_ends_at_the_deadline_with_requests_still_open() {
    let (mut server, held) = start(ServerLimits { shutdown_deadline: SHORT, ..ServerLimits::default() }).await;
    let mut open = server.client().await;
    open.send(&head("GET /v1/held", &[], 0)).await;
    within("the handler", held.entered.acquire()).await.unwrap().forget();
    let begun = Instant::now();
    server.shutdown.cancel();
    within("the end", &mut server.ended).await.unwrap().unwrap();
    assert!((SHORT..SHORT * 10).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(open.closed().await);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (server, _held) = start(ServerLimits::default()).await;
    let mut client = server.client().await;
    let requests = [head("POST /v1/read", &[], 3), b"abc".to_vec(), head("GET /v1/things", &[], 0)].concat();
    client.send(&requests).await;
    assert_eq!(client.answer().await.text(), "3");
    assert_eq!(client.answer().await.text(), "things");
}
