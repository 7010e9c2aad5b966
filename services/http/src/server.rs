//! The HTTP/1 server: it accepts connections, limits their number, drops slow clients, and waits for open requests when
//! it shuts down.

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
use super::connection::{ConnectionTimer, Expired, TimedBody, TimedStream};
use super::context::{PeerAddr, generate_request_id};
use super::mount::MountOptions;
use super::problem::Problem;
use super::server_limits::ServerLimits;
use super::{host, request_layer};
use runtime::retry::Backoff;
use runtime::telemetry::metrics::{self, Counted};

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

/// Size of hyper's read buffer. It limits the size of request headers and of one piece of a body.
const BUFFER_BYTES: usize = 64 * 1024;
const FIRST_ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Settings that all connections share.
struct ConnectionSettings {
    router: Router,
    limits: ServerLimits,
    /// Whether the listener is on loopback. Then a request with a foreign `Host` is refused.
    loopback: bool,
    http: http1::Builder,
    shutdown: CancellationToken,
}

/// Serves `router` until `shutdown`, then waits for open requests, at most `limits.shutdown_deadline`. When a client
/// disconnects early, the future of its handler is dropped.
///
/// # Errors
/// When the listener has no address, so it cannot be used.
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
    let settings = Arc::new(ConnectionSettings { router: router.with_state(()), limits, loopback, http, shutdown });
    let mut connections = JoinSet::new();
    accept_until_shutdown(listener, &settings, &mut connections).await;
    wait_for_connections(connections, limits.shutdown_deadline).await;
    Ok(())
}

/// Accepts connections until the shutdown. It owns the listener: when it returns, the socket is closed and the kernel
/// queues no further connections.
async fn accept_until_shutdown(
    listener: TcpListener,
    settings: &Arc<ConnectionSettings>,
    connections: &mut JoinSet<()>,
) {
    let mut backoff = Backoff::new(FIRST_ACCEPT_PAUSE, LONGEST_ACCEPT_PAUSE);
    loop {
        let accepted = tokio::select! {
            biased;
            () = settings.shutdown.cancelled() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff.reset();
                if connections.len() < settings.limits.max_connections {
                    connections.spawn(serve_connection(stream, peer, settings.clone()));
                } else {
                    refuse_connection(stream);
                }
            }
            Err(error) if is_caused_by_client(&error) => {}
            Err(error) => {
                // Most likely no file descriptor is free. Connections that close free some; retrying at once would only
                // use up a core.
                let pause = backoff.next_delay();
                tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "Accepting a connection failed; retrying.");
                tokio::select! {
                    () = settings.shutdown.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
}

/// Waits until all connections are closed, and aborts the remaining ones at the deadline.
async fn wait_for_connections(mut connections: JoinSet<()>, deadline: Duration) {
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(deadline, all).await.is_err() {
        tracing::warn!(connections = connections.len(), "Requests still open at the shutdown deadline; aborting them.");
        connections.shutdown().await;
    }
}

fn is_caused_by_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Sends 503 to a connection over the limit. What does not fit into the socket's buffer is not sent.
fn refuse_connection(stream: TcpStream) {
    METRICS.refused.inc();
    let written = stream.into_std().and_then(|mut stream| stream.write_all(&too_many_connections()));
    if let Err(error) = written {
        tracing::debug!(%error, "Refused connection closed before the 503 was sent.");
    }
}

/// The whole response to a connection over the limit. Its request is never read, so `instance` is the root path.
fn too_many_connections() -> Vec<u8> {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let problem = Problem::new(status, "too_many_connections", "too many connections are open; try again shortly");
    let id = generate_request_id();
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

async fn serve_connection(stream: TcpStream, peer: SocketAddr, settings: Arc<ConnectionSettings>) {
    let _open = Counted::new(&METRICS.open);
    if let Err(error) = stream.set_nodelay(true) {
        // Responses may then be delayed by tens of milliseconds, which does no harm.
        tracing::debug!(%error, "Setting TCP_NODELAY failed.");
    }
    let timer = Arc::new(ConnectionTimer::new());
    let service = {
        let (settings, timer) = (settings.clone(), timer.clone());
        hyper::service::service_fn(move |request| handle_request(request, peer, settings.clone(), timer.clone()))
    };
    let io = TokioIo::new(TimedStream::new(stream, timer.clone()));
    let mut http = pin!(settings.http.serve_connection(io, service));
    let mut sleep = pin!(tokio::time::sleep(settings.limits.header_read_timeout));
    let mut shutdown = pin!(settings.shutdown.cancelled());
    let mut closing = false;
    poll_fn(|cx| {
        if let Poll::Ready(outcome) = http.as_mut().poll(cx) {
            if let Err(error) = outcome {
                tracing::debug!(%error, %peer, "Connection closed with an error.");
            }
            return Poll::Ready(());
        }
        if !closing && shutdown.as_mut().poll(cx).is_ready() {
            closing = true;
            http.as_mut().graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        match timer.poll_expired(sleep.as_mut(), &settings.limits, cx) {
            Poll::Ready(Expired::Idle) if !closing => {
                closing = true;
                http.as_mut().graceful_shutdown();
                sleep.as_mut().reset(tokio::time::Instant::now() + settings.limits.header_read_timeout);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(expired) => {
                if expired == Expired::SlowClient {
                    METRICS.slow.inc();
                }
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
}

async fn handle_request(
    request: http::Request<Incoming>,
    peer: SocketAddr,
    settings: Arc<ConnectionSettings>,
    timer: Arc<ConnectionTimer>,
) -> Result<http::Response<TimedBody>, Infallible> {
    timer.request_started();
    let has_body = !request.body().is_end_stream();
    let mut request = request.map(axum::body::Body::new);
    request.extensions_mut().insert(PeerAddr(peer));
    request.extensions_mut().insert(BodyReadTimeout(settings.limits.body_read_timeout));
    let response = route(request, &settings).await;
    if has_body && response.status().as_u16() >= 400 {
        timer.linger_on_close();
    }
    Ok(response.map(|body| TimedBody::new(body, timer)))
}

async fn route(request: Request, settings: &ConnectionSettings) -> Response {
    if settings.loopback && !host::has_local_host(&request) {
        let problem = Problem::from_status(StatusCode::MISDIRECTED_REQUEST);
        return request_layer::respond_with(request, problem, MountOptions::default().slow_thresholds()).await;
    }
    let mut router = settings.router.clone();
    router.call(request).await.unwrap_or_else(|never| match never {})
}
