//! The HTTP/1 server: accepting, bounds on connections and on slow clients, and an end that waits for open requests.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use http::StatusCode;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use prometheus::{Gauge, IntCounter};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::body::BodyReadTimeout;
use super::connection::{Due, Pace, PacedBody, PacedStream};
use super::context::{PeerAddr, made_id};
use super::mount::MountOptions;
use super::problem::Problem;
use super::{edge, host};
use runtime::retry::Backoff;
use runtime::telemetry::metrics;

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    open: metrics::gauge("triggers_http_connections", "Open connections of HTTP clients."),
    refused: metrics::counter(
        "triggers_http_connections_refused_total",
        "Connections refused because too many were open.",
    ),
    slow: metrics::counter(
        "triggers_http_slow_clients_total",
        "Connections dropped because the client sent or read too slowly.",
    ),
});

struct Metrics {
    open: Gauge,
    refused: IntCounter,
    slow: IntCounter,
}

/// hyper reads no head larger than its buffer, and bodies in pieces of it.
const BUFFER_BYTES: usize = 64 * 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Bounds of a server. They exist as values so that tests need not wait for the real ones.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// From the first byte of a request (or the opening of the connection) to the end of its headers. Default 10 s.
    pub header_read_timeout: Duration,
    /// The whole body. Default 30 s.
    pub body_read_timeout: Duration,
    /// Between two requests of a connection. Default 75 s.
    pub idle_timeout: Duration,
    /// Without the client taking a byte of an answer. Default 30 s.
    pub write_stall_timeout: Duration,
    /// Request line and headers. Default 32 KiB; hyper answers more with a bare 431.
    pub max_header_bytes: usize,
    /// Open connections; further ones get 503. Default 20,000.
    pub max_connections: usize,
    /// How long open requests may take after the shutdown began. Default 10 s.
    pub shutdown_deadline: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            header_read_timeout: Duration::from_secs(10),
            body_read_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            write_stall_timeout: Duration::from_secs(30),
            max_header_bytes: 32 * 1024,
            max_connections: 20_000,
            shutdown_deadline: Duration::from_secs(10),
        }
    }
}

/// What all connections share.
struct Shared {
    router: Router,
    limits: ServerLimits,
    /// The listener is on loopback: a foreign `Host` is refused.
    loopback: bool,
    http: http1::Builder,
    shutdown: CancellationToken,
}

/// Serves `router` until `shutdown`, then waits for open requests, at most `limits.shutdown_deadline`. A client that
/// leaves early takes its handler with it: the handler's future is dropped at its next await.
///
/// # Errors
/// When the listener has no address, which means that it is not usable.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ServerLimits,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let loopback = listener.local_addr()?.ip().to_canonical().is_loopback();
    let mut http = http1::Builder::new();
    http.header_read_timeout(None)
        .max_header_size(limits.max_header_bytes)
        .max_buf_size(BUFFER_BYTES.max(limits.max_header_bytes));
    let shared = Arc::new(Shared { router: router.with_state(()), limits, loopback, http, shutdown });
    let mut connections = JoinSet::new();
    accept_until_shutdown(listener, &shared, &mut connections).await;
    finish(connections, limits.shutdown_deadline).await;
    Ok(())
}

/// Takes the listener, so that nobody is let into the queue any more once it returns.
async fn accept_until_shutdown(listener: TcpListener, shared: &Arc<Shared>, connections: &mut JoinSet<()>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff.reset();
                if connections.len() < shared.limits.max_connections {
                    connections.spawn(connection(stream, peer, shared.clone()));
                } else {
                    refuse(stream);
                }
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                // Most likely out of file descriptors: connections that end will free some. Trying at once would only
                // burn a core.
                let pause = backoff.next_delay();
                tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "A connection could not be accepted.");
                tokio::select! {
                    () = shared.shutdown.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
}

async fn finish(mut connections: JoinSet<()>, deadline: Duration) {
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(deadline, all).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "Requests were still open at the deadline of the shutdown; they are cut off."
        );
        connections.shutdown().await;
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Says that there are too many connections, as far as the socket takes it at once.
fn refuse(stream: TcpStream) {
    METRICS.refused.inc();
    let written = stream.into_std().and_then(|mut stream| stream.write_all(&too_many_connections()));
    if let Err(error) = written {
        tracing::debug!(%error, "A refused connection was closed before it got its answer.");
    }
}

/// A whole answer, to a connection that never becomes a request. Nothing is known of it, so its `instance` is the root.
fn too_many_connections() -> Vec<u8> {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let problem = Problem::new(status, "too_many_connections", "too many connections are open; try again shortly");
    let id = made_id();
    let body = problem.body(status, "/", &id);
    let mut answer = format!(
        "HTTP/1.1 {status}\r\n\
         content-type: application/problem+json\r\n\
         content-length: {}\r\n\
         x-request-id: {id}\r\n\
         x-correlation-id: {id}\r\n\
         x-response-time: 0ms\r\n\
         retry-after: 1\r\n\
         connection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(&body);
    answer
}

/// Counts a connection as long as it lives.
struct Open;

impl Open {
    fn new() -> Self {
        METRICS.open.inc();
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        METRICS.open.dec();
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let _open = Open::new();
    if let Err(error) = stream.set_nodelay(true) {
        // Answers would be held back for tens of milliseconds; that is slow, not wrong.
        tracing::debug!(%error, "TCP_NODELAY could not be set.");
    }
    let pace = Arc::new(Pace::new());
    let service = {
        let (shared, pace) = (shared.clone(), pace.clone());
        hyper::service::service_fn(move |request| answer(request, peer, shared.clone(), pace.clone()))
    };
    let io = TokioIo::new(PacedStream::new(stream, pace.clone()));
    let mut http = pin!(shared.http.serve_connection(io, service));
    let mut timer = pin!(tokio::time::sleep(shared.limits.header_read_timeout));
    let mut shutdown = pin!(shared.shutdown.cancelled());
    let mut closing = false;
    poll_fn(|cx| {
        if let Poll::Ready(outcome) = http.as_mut().poll(cx) {
            if let Err(error) = outcome {
                tracing::debug!(%error, %peer, "A connection ended with an error.");
            }
            return Poll::Ready(());
        }
        if !closing && shutdown.as_mut().poll(cx).is_ready() {
            closing = true;
            http.as_mut().graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        match pace.poll_due(timer.as_mut(), &shared.limits, cx) {
            Poll::Ready(Due::Idle) if !closing => {
                closing = true;
                http.as_mut().graceful_shutdown();
                timer.as_mut().reset(tokio::time::Instant::now() + shared.limits.header_read_timeout);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(due) => {
                if due == Due::Slow {
                    METRICS.slow.inc();
                }
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
}

async fn answer(
    request: http::Request<Incoming>,
    peer: SocketAddr,
    shared: Arc<Shared>,
    pace: Arc<Pace>,
) -> Result<http::Response<PacedBody>, Infallible> {
    pace.begin_request();
    let has_body = !request.body().is_end_stream();
    let mut request = request.map(axum::body::Body::new);
    request.extensions_mut().insert(PeerAddr(peer));
    request.extensions_mut().insert(BodyReadTimeout(shared.limits.body_read_timeout));
    let response = route(request, &shared).await;
    if has_body && response.status().as_u16() >= 400 {
        pace.linger_at_the_end();
    }
    Ok(response.map(|body| PacedBody::new(body, pace)))
}

async fn route(request: Request, shared: &Shared) -> Response {
    if shared.loopback && !host::is_local(&request) {
        let problem = Problem::from_status(StatusCode::MISDIRECTED_REQUEST);
        return edge::refuse(request, problem, MountOptions::default().slow_after()).await;
    }
    let mut router = shared.router.clone();
    router.call(request).await.unwrap_or_else(|never| match never {})
}
