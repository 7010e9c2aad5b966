//! The HTTP API as production serves it, on a free port, and a client for it.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use http_server::{MountOptions, Routes, ServerLimits, ServerSettings};
use reqwest::{Client, RequestBuilder};
use runtime::health::Health;
use runtime::lifecycle::Supervisor;
use runtime::seal::SealingKey;
use serde_json::Value;
use sqlx::postgres::PgPool;
use tenancy::{Tenancy, TenancyConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// How long background tasks may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a request without its body, with slack for a busy machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The sealing key of [`start_tenancy`].
const SEALING: [u8; 32] = [11; 32];

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// `null` when the body is empty.
    pub body: Value,
}

impl Answer {
    /// A field of the body that must be a string.
    pub fn text(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_else(|| panic!("no text {field} in {}", self.body)).to_owned()
    }

    /// Fails the test with the whole answer unless it has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A client without timeouts.
pub fn client() -> Client {
    // Fails if another test has installed it already.
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::new()
}

pub async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = response.bytes().await.unwrap();
    let body = if bytes.is_empty() {
        assert!(status.is_success(), "{status} without a body");
        Value::Null
    } else {
        serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{status}: {error}: {bytes:?}"))
    };
    Answer { status, headers, body }
}

/// Sends headers that announce a body, and no body. Returns the status of the answer, which must not wait for the body.
/// `headers`: each ends with a line break.
pub async fn status_of_headers_only(base_url: &str, method: &str, path: &str, headers: &str) -> u16 {
    let address = base_url.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 5000\r\n{headers}\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tokio::time::timeout(ANSWER_TIMEOUT, socket.read_exact(&mut answer))
        .await
        .unwrap_or_else(|_| panic!("{method} {path} waits for the body"))
        .unwrap();
    std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap()
}

/// Serves the routes until `stop` is cancelled. Returns the URL, without a slash at its end.
pub async fn serve(routes: impl Into<Routes>, stop: &CancellationToken) -> String {
    let router = http_server::mount(routes, MountOptions::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(tokio::spawn(http_server::serve(
        listener,
        router,
        ServerSettings::new(ServerLimits::default()),
        stop.clone(),
    )));
    url
}

/// Tenancy with its background tasks, which stop when `stop` is cancelled.
pub fn start_tenancy(pool: PgPool, config: TenancyConfig, stop: &CancellationToken) -> Tenancy {
    let mut supervisor = Supervisor::new(Health::new(), stop.clone());
    let sealing = SealingKey::from_bytes(SEALING);
    let tenancy = Tenancy::start(&mut supervisor, pool, sealing, config);
    drop(tokio::spawn(supervisor.run(STOP_TIMEOUT)));
    tenancy
}
