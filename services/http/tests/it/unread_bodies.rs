//! Bodies that are not read, because the request is refused: the connection can be used again, or the answer says that
//! it closes.

use axum::Router;
use axum::extract::Request;
use axum::middleware::map_request;
use axum::routing::{get, post};
use http::StatusCode;
use http_server::{MountOptions, Problem, RequestBody, ServerLimits, mount};
use tokio::sync::mpsc;

use super::{Client, Server, head};

/// Statuses of answers that come before the body is read.
const REFUSALS: [u16; 6] = [401, 403, 404, 405, 415, 429];

fn api() -> Router {
    let refuse = |status: u16| {
        let status = StatusCode::from_u16(status).unwrap();
        post(move || std::future::ready(Problem::new(status, "refused", "refused before the body is read")))
    };
    let api = REFUSALS.into_iter().fold(Router::new(), |api, status| api.route(&format!("/{status}"), refuse(status)));
    let api = api.route("/ignored", post(|| async { "done" })).route("/things", get(|| async { "things" }));
    mount(api.route("/read", post(|body: RequestBody| async move { body.bytes })), MountOptions::default())
}

async fn start() -> Server {
    Server::start_with(api(), ServerLimits::default()).await
}

fn paths() -> impl Iterator<Item = (String, u16)> {
    let refused = REFUSALS.into_iter().map(|status| (format!("/v1/{status}"), status));
    refused.chain([("/v1/nothing".to_owned(), 404), ("/v1/things".to_owned(), 405), ("/v1/ignored".to_owned(), 200)])
}

async fn assert_usable(client: &mut Client, after: &str) {
    client.send(&head("GET /v1/things", &[], 0)).await;
    assert_eq!(client.response().await.text(), "things", "after {after}");
}

#[tokio::test]
async fn a_small_body_that_comes_later_leaves_the_connection_open() {
    // Says when the head of a request has arrived: then its body comes later.
    let (arriving, mut arrived) = mpsc::unbounded_channel();
    let api = api().layer(map_request(move |request: Request| {
        arriving.send(()).unwrap();
        std::future::ready(request)
    }));
    let server = Server::start_with(api, ServerLimits::default()).await;
    for (path, status) in paths() {
        let mut client = server.client().await;
        for _ in 0..2 {
            client.send(&head(&format!("POST {path}"), &[], 16 * 1024)).await;
            arrived.recv().await.unwrap();
            client.send(&[b'x'; 16 * 1024]).await;
            let response = client.response().await;
            assert_eq!(response.status, status, "{path}");
            assert!(!response.headers.contains_key("connection"), "{path}: {response:?}");
        }
        client.send(&head(&format!("POST {path}"), &["transfer-encoding: chunked"], 0)).await;
        arrived.recv().await.unwrap();
        client.send(b"3\r\nabc\r\n0\r\n\r\n").await;
        assert!(!client.response().await.headers.contains_key("connection"), "{path}");
        assert_usable(&mut client, &path).await;
        arrived.recv().await.unwrap();
    }
}

async fn assert_says_that_it_closes(server: &Server, path: &str, status: u16, lines: &[&str], length: usize) {
    let mut client = server.client().await;
    client.send(&head(&format!("POST {path}"), lines, length)).await;
    let response = client.response().await;
    assert_eq!((response.status, response.header("connection")), (status, "close"), "{path} {lines:?} {length}");
    client.send(&vec![b'x'; length]).await;
    assert!(client.closed().await, "{path} {lines:?} {length}");
}

#[tokio::test]
async fn an_answer_before_a_large_or_late_body_says_that_it_closes() {
    let server = start().await;
    for (path, status) in paths() {
        assert_says_that_it_closes(&server, &path, status, &[], 16 * 1024 + 1).await;
        assert_says_that_it_closes(&server, &path, status, &["expect: 100-continue"], 1).await;
    }
    assert_says_that_it_closes(&server, "/v1/401", 401, &[], 1).await;
    assert_says_that_it_closes(&server, "/v1/401", 401, &["transfer-encoding: chunked"], 0).await;
}

#[tokio::test]
async fn a_body_that_is_read_leaves_the_connection_open() {
    let server = start().await;
    let mut client = server.client().await;
    for lines in [&[][..], &["expect: 100-continue"]] {
        client.send(&head("POST /v1/read", lines, 3)).await;
        if !lines.is_empty() {
            assert_eq!(client.response_without_body().await.status, 100);
        }
        client.send(b"abc").await;
        let response = client.response().await;
        assert_eq!(response.text(), "abc");
        assert!(!response.headers.contains_key("connection"), "{response:?}");
    }
    assert_usable(&mut client, "a body that was read").await;
}
