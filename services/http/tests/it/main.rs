//! Tests of the HTTP server, through a real listener and raw TCP.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as the tests do")]

mod bodies;
mod budgets;
mod decoders;
mod every_answer;
mod http2;
mod operational;
mod problems;
mod server;
mod slow;
mod unread;
mod unread_bodies;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use http_server::{MountOptions, Routes, ServerLimits, ServerSettings, mount, serve};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `what`, and fails the test when it does not happen.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<io::Result<()>>,
}

impl Server {
    async fn start(api: impl Into<Routes>) -> Self {
        Self::start_with(mount(api, MountOptions::default()), ServerLimits::default()).await
    }

    async fn start_with(router: Router, limits: ServerLimits) -> Self {
        Self::start_settings(router, ServerSettings::new(limits)).await
    }

    async fn start_settings(router: Router, settings: ServerSettings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, router, settings, shutdown.clone()));
        Self { address, shutdown, task }
    }

    async fn client(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap(), Vec::new())
    }

    /// Sends one request on its own connection. `lines` are further header lines.
    async fn request(&self, request: &str, lines: &[&str], body: &[u8]) -> Response {
        let mut client = self.client().await;
        client.send(&head(request, lines, body.len())).await;
        client.send(body).await;
        client.response().await
    }

    async fn get(&self, path: &str) -> Response {
        self.request(&format!("GET {path}"), &[], b"").await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn head(request: &str, lines: &[&str], length: usize) -> Vec<u8> {
    let mut head = format!("{request} HTTP/1.1\r\n");
    if !lines.iter().any(|line| line.to_ascii_lowercase().starts_with("host:")) {
        head.push_str("host: localhost\r\n");
    }
    if length > 0 {
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// A connection, and the bytes that were read after the last response.
struct Client(TcpStream, Vec<u8>);

impl Client {
    /// Sends bytes. Errors are ignored: the server may have answered and closed already.
    async fn send(&mut self, bytes: &[u8]) {
        let _sent = self.0.write_all(bytes).await;
    }

    async fn response(&mut self) -> Response {
        within("a response", self.read_response(true)).await
    }

    async fn response_without_body(&mut self) -> Response {
        within("a response", self.read_response(false)).await
    }

    /// Whether the server closed the connection without another byte.
    async fn closed(&mut self) -> bool {
        within("the close of the connection", async {
            let mut byte = [0];
            !matches!(self.0.read(&mut byte).await, Ok(1..))
        })
        .await
    }

    async fn read_response(&mut self, with_body: bool) -> Response {
        let head_end = loop {
            if let Some(at) = self.1.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            assert!(
                self.more().await,
                "the connection closed without a response: {:?}",
                String::from_utf8_lossy(&self.1)
            );
        };
        let head = String::from_utf8(self.1.drain(..head_end + 4).collect()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HashMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            assert!(headers.insert(name.to_ascii_lowercase(), value.to_owned()).is_none(), "{name} twice in {head}");
        }
        let length =
            if with_body { headers.get("content-length").map_or(0, |length| length.parse().unwrap()) } else { 0 };
        while self.1.len() < length {
            assert!(self.more().await, "the connection closed before the end of the body");
        }
        Response { status, headers, body: self.1.drain(..length).collect() }
    }

    async fn more(&mut self) -> bool {
        self.0.read_buf(&mut self.1).await.unwrap() > 0
    }
}

#[derive(Debug)]
struct Response {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Response {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks hyper's own response to an invalid request: no body, and the connection is closed.
    #[track_caller]
    fn assert_bare(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!((self.header("connection"), self.header("content-length")), ("close", "0"), "{self:?}");
    }

    /// Checks the members that every problem has, and returns the problem.
    #[track_caller]
    fn problem(&self, status: u16, error_code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["error_code"], error_code);
        assert_eq!(problem["type"], format!("urn:triggers:problem:{error_code}"));
        assert!(!problem["title"].as_str().unwrap().is_empty());
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        assert_eq!(problem["message"], problem["detail"]);
        assert_eq!(problem["error"], problem["detail"]);
        assert!(problem["instance"].as_str().unwrap().starts_with('/'));
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert_eq!(self.header("x-correlation-id"), self.header("x-request-id"));
        assert!(self.header("x-response-time").ends_with("ms"));
        problem
    }
}
