//! HTTP/2 with prior knowledge, on the port of HTTP/1.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use http_server::{MountOptions, RequestBody, ServerLimits, mount};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{Server, within};

const LARGE_RESPONSE: usize = 8 * 1024 * 1024;

fn api() -> Router {
    let api = Router::new()
        .route("/things", get(|| async { "things" }))
        .route("/large", get(|| async { "x".repeat(LARGE_RESPONSE) }))
        .route("/read", post(|body: RequestBody| async move { body.bytes.len().to_string() }));
    mount(api, MountOptions::default())
}

/// A connection of HTTP/2; its task ends when the server closes it.
async fn connect(server: &Server) -> (http2::SendRequest<Full<Bytes>>, JoinHandle<()>) {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let task = tokio::spawn(async move { drop(connection.await) });
    (sender, task)
}

fn request(method: &str, path: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let uri = format!("http://localhost{path}");
    Request::builder().method(method).uri(uri).body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let server = Server::start_with(api(), ServerLimits::default()).await;
    let (sender, _task) = connect(&server).await;
    let answers = (0..200_usize).map(|size| {
        let mut sender = sender.clone();
        async move {
            sender.ready().await.unwrap();
            let response = sender.send_request(request("POST", "/v1/read", vec![b'x'; size * 500])).await.unwrap();
            assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
            assert!(response.headers().contains_key("x-request-id"));
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, (size * 500).to_string());
        }
    });
    within("all answers", futures_util::future::join_all(answers)).await;
    assert_eq!(server.get("/v1/things").await.text(), "things", "HTTP/1 is served on the same port");
}

#[tokio::test]
async fn a_foreign_host_is_refused_as_with_http_1() {
    let server = Server::start_with(api(), ServerLimits::default()).await;
    let (mut sender, _task) = connect(&server).await;
    let foreign = Request::get("http://example.com/v1/things").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(foreign).await.unwrap().status(), StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn a_response_that_is_not_read_ends_the_connection() {
    let limits = ServerLimits {
        response_grace: Duration::from_millis(200),
        min_response_bytes_per_second: 1024 * 1024 * 1024,
        header_read_timeout: Duration::from_millis(200),
        ..ServerLimits::default()
    };
    let server = Server::start_with(api(), limits).await;
    let (mut sender, task) = connect(&server).await;
    let unread = sender.send_request(request("GET", "/v1/large", Vec::new())).await.unwrap();
    within("the end of the connection", task).await.unwrap();
    drop(unread);
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let limits = ServerLimits { idle_timeout_without_key: Duration::from_millis(200), ..ServerLimits::default() };
    let server = Server::start_with(api(), limits).await;
    let (mut sender, task) = connect(&server).await;
    let response = sender.send_request(request("GET", "/v1/things", Vec::new())).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "things");
    within("the end of the idle connection", task).await.unwrap();
}

#[tokio::test]
async fn a_client_that_sends_only_the_preface_is_dropped() {
    let limits = ServerLimits { header_read_timeout: Duration::from_millis(200), ..ServerLimits::default() };
    let server = Server::start_with(api(), limits).await;
    for part in [&b"PR"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut client = server.client().await;
        client.send(part).await;
        // The server's settings come first.
        while !client.closed().await {}
    }
}
