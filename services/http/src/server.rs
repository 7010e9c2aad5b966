//! The HTTP server: it accepts connections, limits their number, and waits for open requests when it shuts down.
//! `serve_connection` serves one.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use http::StatusCode;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prometheus::{Gauge, IntCounter, IntCounterVec};
use runtime::budget::{Exhausted, Permit};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::budgets::Budgets;
use super::context::generate_request_id;
use super::host::AllowedHosts;
use super::problem::Problem;
use super::serve_connection::serve_connection;
use super::server_limits::ServerLimits;
use super::trusted_proxies::TrustedProxies;
use runtime::retry::Backoff;
use runtime::telemetry::metrics;

pub(super) static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    open: metrics::gauge("triggers_http_connections", "Open connections of HTTP clients."),
    refused: metrics::counter_vec(
        "triggers_http_connections_refused_total",
        "Connections refused because too many were open, in all or by this peer (bound: all, peer).",
        &["bound"],
    ),
    slow: metrics::counter(
        "triggers_http_slow_clients_total",
        "Connections dropped because the client sent or read too slowly.",
    ),
});

pub(super) struct Metrics {
    pub(super) open: Gauge,
    refused: IntCounterVec,
    pub(super) slow: IntCounter,
}

/// Size of hyper's read buffer. It limits the size of request headers and of one piece of a body.
const BUFFER_BYTES: usize = 64 * 1024;
/// Bytes of responses that the kernel takes for a connection beyond those that are on their way to the client.
const UNSENT_BYTES: u32 = 128 * 1024;
const FIRST_ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Most streams that one connection of HTTP/2 may have open.
const MAX_STREAMS: u32 = 100;
/// Bytes of request bodies that a stream, and a connection of HTTP/2, may send before they are read.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes of responses that a stream of HTTP/2 buffers.
const STREAM_SEND_BYTES: usize = 64 * 1024;

/// Settings of a server.
#[derive(Clone)]
pub struct ServerSettings {
    /// Timeouts and limits.
    pub limits: ServerLimits,
    /// What connections, bodies and responses may hold, made from `limits`.
    pub budgets: Budgets,
    /// Proxies that name the client's address.
    pub trusted_proxies: TrustedProxies,
    /// Names that the server has for its clients.
    pub allowed_hosts: AllowedHosts,
}

impl ServerSettings {
    /// Settings with these limits, and without a proxy.
    pub fn new(limits: ServerLimits) -> Self {
        Self {
            limits,
            budgets: Budgets::new(&limits),
            trusted_proxies: TrustedProxies::default(),
            allowed_hosts: AllowedHosts::default(),
        }
    }
}

/// Settings that all connections share.
pub(super) struct ConnectionSettings {
    pub(super) router: Router,
    pub(super) server: ServerSettings,
    /// Whether the listener is on loopback. Then a request with a foreign `Host` is refused.
    pub(super) loopback: bool,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<TokioExecutor>,
    pub(super) shutdown: CancellationToken,
}

/// Serves `router` until `shutdown`, then waits for open requests, at most `limits.shutdown_deadline`. When a client
/// disconnects early, the future of its handler is dropped. A client may speak HTTP/1, or HTTP/2 with prior knowledge.
///
/// # Errors
/// When the listener has no address, so it cannot be used.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    settings: ServerSettings,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let loopback = listener.local_addr()?.ip().to_canonical().is_loopback();
    // Connections inherit it. Without it the kernel takes up to 4 MiB for a client that does not read.
    if let Err(error) = SockRef::from(&listener).set_tcp_notsent_lowat(UNSENT_BYTES) {
        tracing::debug!(%error, "Setting TCP_NOTSENT_LOWAT failed.");
    }
    let deadline = settings.limits.shutdown_deadline;
    let settings = Arc::new(ConnectionSettings {
        router: router.with_state(()),
        loopback,
        http1: http1_builder(&settings.limits),
        http2: http2_builder(&settings.limits),
        server: settings,
        shutdown,
    });
    let mut connections = JoinSet::new();
    accept_until_shutdown(listener, &settings, &mut connections).await;
    wait_for_connections(connections, deadline).await;
    Ok(())
}

fn http1_builder(limits: &ServerLimits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.header_read_timeout(None)
        .max_header_size(limits.max_header_bytes)
        .max_buf_size(BUFFER_BYTES.max(limits.max_header_bytes));
    http
}

/// A client that does not answer a ping within the time for headers is gone.
fn http2_builder(limits: &ServerLimits) -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(STREAM_SEND_BYTES)
        .keep_alive_interval(limits.write_stall_timeout)
        .keep_alive_timeout(limits.header_read_timeout);
    http
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
                match count_connection(settings, peer) {
                    Ok(place) => drop(connections.spawn(serve_connection(stream, peer, settings.clone(), place))),
                    Err(exhausted) => refuse_connection(stream, exhausted),
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

/// A listed proxy has the connections of many clients, so it has no share of its own.
fn count_connection(settings: &ConnectionSettings, peer: SocketAddr) -> Result<Permit, Exhausted> {
    let ServerSettings { budgets, trusted_proxies, .. } = &settings.server;
    if trusted_proxies.contains(peer.ip()) { budgets.connect_proxy() } else { budgets.connect(peer.ip()) }
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

/// Answers a connection over the limit. What does not fit into the socket's buffer is not sent.
fn refuse_connection(stream: TcpStream, exhausted: Exhausted) {
    let bound = if exhausted == Exhausted::Holder { "peer" } else { "all" };
    METRICS.refused.with_label_values(&[bound]).inc();
    let written = stream.into_std().and_then(|mut stream| stream.write_all(&too_many_connections(exhausted)));
    if let Err(error) = written {
        tracing::debug!(%error, "Refused connection closed before its answer was sent.");
    }
}

/// The whole response to a connection over the limit. Its request is never read, so `instance` is the root path.
fn too_many_connections(exhausted: Exhausted) -> Vec<u8> {
    let (status, detail) = match exhausted {
        Exhausted::Holder => (StatusCode::TOO_MANY_REQUESTS, "too many connections are open from this address"),
        Exhausted::All => (StatusCode::SERVICE_UNAVAILABLE, "too many connections are open; try again shortly"),
    };
    let problem = Problem::new(status, "too_many_connections", detail);
    let id = generate_request_id();
    let body = problem.body(status, "/", &id);
    let mut answer = format!(
        "HTTP/1.1 {status}\r\n\
         content-type: application/problem+json\r\n\
         content-length: {}\r\n\
         x-request-id: {id}\r\n\
         x-correlation-id: {id}\r\n\
         x-response-time: 0ms\r\n\
         x-content-type-options: nosniff\r\n\
         cache-control: no-store\r\n\
         retry-after: 1\r\n\
         connection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(&body);
    answer
}
