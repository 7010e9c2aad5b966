//! What clients may hold: connections, bytes of bodies that are not complete, bytes of responses that are not read.

use std::io::Write;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_server::{ForwardedHeader, MountOptions, RequestBody, ServerLimits, ServerSettings, TrustedProxies, mount};

use super::{Client, Response, Server, head, within};

const KIB: u64 = 1024;
/// More than the buffers of two sockets hold.
const LARGE_RESPONSE: usize = 32 * 1024 * 1024;

fn api() -> Router {
    let api = Router::new()
        .route("/things", get(|| async { "things" }))
        .route("/read", post(|body: RequestBody| async move { body.bytes.len().to_string() }))
        .route("/large", get(|| async { "x".repeat(LARGE_RESPONSE) }));
    mount(api, MountOptions::default())
}

/// Sends the head of a body, and a part of it.
async fn half_sent(server: &Server, encoding: &[&str], part: &[u8]) -> Client {
    let mut client = server.client().await;
    client.send(&head("POST /v1/read", encoding, part.len() + 1)).await;
    client.send(part).await;
    client
}

/// The response that comes first.
async fn either(first: &mut Client, second: &mut Client) -> Response {
    tokio::select! { response = first.response() => response, response = second.response() => response }
}

/// Repeats `request` until it has this status.
async fn until_status(server: &Server, status: u16, body: &[u8]) {
    within("the status", async {
        while server.request("POST /v1/read", &["connection: close"], body).await.status != status {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn half_sent_bodies_use_up_the_budget_of_their_sender() {
    let limits =
        ServerLimits { max_body_bytes: 1024 * KIB, max_body_bytes_per_holder: 256 * KIB, ..ServerLimits::default() };
    let server = Server::start_with(api(), limits).await;
    let part = vec![b'x'; 200 * 1024];
    let mut first = half_sent(&server, &[], &part).await;
    let mut second = half_sent(&server, &[], &part).await;
    // Either may be the one that does not fit; it is refused at once, although its body is not complete.
    let refused = either(&mut first, &mut second).await;
    assert_eq!(refused.header("retry-after"), "1");
    refused.problem(429, "too_much_at_once");
    let small = server.request("POST /v1/read", &[], b"small").await;
    assert_eq!(small.text(), "5", "a body that arrives in one piece needs no budget");
    drop((first, second));
    until_status(&server, 200, &part).await;
}

#[tokio::test]
async fn all_senders_together_have_a_budget() {
    let limits = ServerLimits { max_body_bytes: 256 * KIB, ..ServerLimits::default() };
    let server = Server::start_with(api(), limits).await;
    let part = vec![b'x'; 200 * 1024];
    let mut first = half_sent(&server, &[], &part).await;
    let mut second = half_sent(&server, &[], &part).await;
    let refused = either(&mut first, &mut second).await;
    refused.problem(503, "unavailable");
}

#[tokio::test]
async fn gzip_is_counted_while_it_unfolds() {
    let limits = ServerLimits { max_body_bytes_per_holder: 128 * KIB, ..ServerLimits::default() };
    let server = Server::start_with(api(), limits).await;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![b'x'; 400 * 1024]).unwrap();
    let packed = encoder.finish().unwrap();
    assert!(packed.len() < 1024, "the body on the wire is small");
    let mut client = half_sent(&server, &["content-encoding: gzip"], &packed).await;
    client.response().await.problem(429, "too_much_at_once");
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_is_dropped() {
    let limits = ServerLimits {
        response_grace: Duration::from_millis(300),
        min_response_bytes_per_second: 1024 * 1024 * 1024,
        header_read_timeout: Duration::from_millis(300),
        max_response_bytes_without_key: 100 * KIB * KIB,
        max_response_bytes_per_address: 40 * KIB * KIB,
        ..ServerLimits::default()
    };
    let server = Server::start_with(api(), limits).await;
    let mut slow = server.client().await;
    slow.send(&head("GET /v1/large", &[], 0)).await;
    assert!(slow.more().await, "the response begins");
    // What the client has not read is still held.
    server.get("/v1/large").await.problem(429, "too_much_at_once");
    within("the drop of the slow client", async {
        // It goes on reading, a little at a time, so a write is never blocked for long.
        while slow.0.try_read(&mut [0; 512]).is_ok_and(|read| read > 0)
            || slow.0.peek(&mut [0]).await.is_ok_and(|n| n > 0)
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if server.get("/v1/large").await.status == 200 {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn one_peer_has_a_share_of_the_connections() {
    let limits = ServerLimits { max_connections: 10, max_connections_per_peer: 2, ..ServerLimits::default() };
    let server = Server::start_with(api(), limits).await;
    let (_first, _second) = (server.client().await, server.client().await);
    let refused = server.client().await.response().await;
    assert_eq!(refused.header("retry-after"), "1");
    refused.problem(429, "too_many_connections");
}

#[tokio::test]
async fn a_trusted_proxy_has_no_share_and_names_the_client() {
    let limits = ServerLimits { max_connections: 10, max_connections_per_peer: 1, ..ServerLimits::default() };
    let api = Router::new().route("/me", get(|client: http_server::ClientAddress| async move { client.0.to_string() }));
    let mut settings = ServerSettings::new(limits);
    settings.trusted_proxies = TrustedProxies::parse("127.0.0.1", ForwardedHeader::XForwardedFor).unwrap();
    let server = Server::start_settings(mount(api, MountOptions::default()), settings).await;
    let _open = (server.client().await, server.client().await);
    let response = server.request("GET /v1/me", &["x-forwarded-for: 1.1.1.1, 203.0.113.9"], b"").await;
    assert_eq!(response.text(), "203.0.113.9");
}

#[tokio::test]
async fn a_connection_without_a_key_is_idle_for_less_time() {
    let limits = ServerLimits { idle_timeout_without_key: Duration::from_millis(100), ..ServerLimits::default() };
    let server = Server::start_with(api(), limits).await;
    let mut client = server.client().await;
    client.send(&head("GET /v1/things", &[], 0)).await;
    client.response().await;
    assert!(client.closed().await);
}

#[tokio::test]
async fn idle_connections_close_soon_when_places_run_short() {
    let limits = ServerLimits {
        max_connections: 4,
        idle_timeout_when_crowded: Duration::from_millis(50),
        header_read_timeout: Duration::from_millis(500),
        ..ServerLimits::default()
    };
    let server = Server::start_with(api(), limits).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = server.client().await;
        client.send(&head("GET /v1/things", &[], 0)).await;
        client.response().await;
        clients.push(client);
    }
    let any_closed = futures_util::future::select_all(clients.iter_mut().map(|client| Box::pin(client.closed())));
    assert!(any_closed.await.0, "no idle connection closed, although all places are taken");
}
