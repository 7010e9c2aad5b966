//! One connection: it detects whether the client speaks HTTP/1 or HTTP/2, serves its requests, and drops a slow client.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use http::{HeaderValue, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulConnection;
use runtime::budget::Permit;
use runtime::telemetry::metrics::Counted;
use tokio::net::TcpStream;
use tower::Service;

use super::body::BodyReadTimeout;
use super::connection::TimedStream;
use super::connection_timer::{ConnectionTimer, Expired};
use super::context::ClientAddress;
use super::mount::MountOptions;
use super::problem::Problem;
use super::request_layer;
use super::request_layer::{AddressHolder, AnswerHolder, HadValidKey};
use super::response_body::{self, ConnectionBody};
use super::server::{ConnectionSettings, METRICS};
use super::unread_body::{self, UnreadBody};

/// How the preface of HTTP/2 starts. No method of HTTP/1 starts so.
const HTTP2_PREFACE: &[u8] = b"PRI";
/// Pause before a client that has sent one or two bytes is looked at again.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);

/// Serves one connection to its end. It is counted until then.
pub(super) async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    settings: Arc<ConnectionSettings>,
    _place: Permit,
) {
    let _open = Counted::new(&METRICS.open);
    if let Err(error) = stream.set_nodelay(true) {
        // Responses may then be delayed by tens of milliseconds, which does no harm.
        tracing::debug!(%error, "Setting TCP_NODELAY failed.");
    }
    let detecting = tokio::time::timeout(settings.server.limits.header_read_timeout, speaks_http2(&stream));
    let is_http2 = tokio::select! {
        () = settings.shutdown.cancelled() => return,
        detected = detecting => match detected {
            Ok(Ok(is_http2)) => is_http2,
            Ok(Err(_)) => return,
            Err(_) => return METRICS.slow.inc(),
        },
    };
    let timer = Arc::new(ConnectionTimer::new(is_http2));
    let service = {
        let (settings, timer) = (settings.clone(), timer.clone());
        // Boxed: hyper keeps room for it as long as the connection is open, and most connections are idle.
        hyper::service::service_fn(move |request| {
            Box::pin(handle_request(request, peer, settings.clone(), timer.clone()))
        })
    };
    let io = TokioIo::new(TimedStream::new(stream, timer.clone()));
    if is_http2 {
        // Boxed: the state of HTTP/2 is larger, and a connection of HTTP/1 would have room for it.
        Box::pin(drive(settings.http2.serve_connection(io, service), &timer, peer, &settings)).await;
    } else {
        drive(settings.http1.serve_connection(io, service), &timer, peer, &settings).await;
    }
}

/// Whether the first bytes, which stay unread, are those of HTTP/2.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0_u8; HTTP2_PREFACE.len()];
    loop {
        match stream.peek(&mut first).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read if first[..read] != HTTP2_PREFACE[..read] => return Ok(false),
            read if read == HTTP2_PREFACE.len() => return Ok(true),
            _ => tokio::time::sleep(PREFACE_PAUSE).await,
        }
    }
}

/// Polls the connection until it ends, or until a timeout or the shutdown ends it.
async fn drive<C>(http: C, timer: &Arc<ConnectionTimer>, peer: SocketAddr, settings: &ConnectionSettings)
where
    C: GracefulConnection<Error: std::fmt::Display>,
{
    let limits = &settings.server.limits;
    let mut http = pin!(http);
    let mut sleep = pin!(tokio::time::sleep(limits.header_read_timeout));
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
        let is_crowded = || settings.server.budgets.is_crowded();
        match timer.poll_expired(sleep.as_mut(), limits, is_crowded, cx) {
            Poll::Ready(Expired::Idle) if !closing => {
                closing = true;
                http.as_mut().graceful_shutdown();
                sleep.as_mut().reset(tokio::time::Instant::now() + limits.header_read_timeout);
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
) -> Result<http::Response<ConnectionBody>, h2::Error> {
    let open = timer.request_started();
    let server = &settings.server;
    let is_http2 = request.version() == Version::HTTP_2;
    let (mut request, unread) = match request.body().is_end_stream() {
        false if !is_http2 => observe_body(request),
        _ => (request.map(axum::body::Body::new), None),
    };
    let address = server.trusted_proxies.client_of(peer.ip(), request.headers());
    request.extensions_mut().insert(ClientAddress(address));
    let address_holder = server.budgets.holder_at(address);
    request.extensions_mut().insert(AddressHolder(address_holder.clone()));
    request.extensions_mut().insert(BodyReadTimeout(server.limits.body_read_timeout));
    let mut response = route(request, &settings).await;
    if let Some(unread) = unread
        && !unread.finish().await
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        timer.linger_on_close();
    }
    if response.extensions().get::<HadValidKey>().is_some() {
        timer.has_valid_key();
    }
    let stream = if is_http2 {
        let holder = response.extensions().get::<AnswerHolder>().map_or(&address_holder, |holder| &holder.0);
        // A refusal would be one more answer that nobody reads, so the stream is reset.
        response_body::count_stream(&response, holder).map_err(|_| h2::Reason::ENHANCE_YOUR_CALM)?
    } else {
        None
    };
    Ok(response.map(|body| ConnectionBody::new(body, open, &server.limits, stream)))
}

/// The request with a body of which the server notices whether it is read. A client that asks before it sends its body
/// (`Expect: 100-continue`) is not asked for the rest.
fn observe_body(request: http::Request<Incoming>) -> (Request, Option<UnreadBody>) {
    let (parts, body) = request.into_parts();
    let (body, unread) = unread_body::observe(body, !parts.headers.contains_key(header::EXPECT));
    (Request::from_parts(parts, axum::body::Body::new(body)), Some(unread))
}

async fn route(request: Request, settings: &ConnectionSettings) -> Response {
    if !settings.server.allowed_hosts.admits(&request, settings.loopback) {
        let problem = Problem::from_status(StatusCode::MISDIRECTED_REQUEST);
        return request_layer::respond_with(request, problem, MountOptions::default().slow_thresholds()).await;
    }
    let mut router = settings.router.clone();
    router.call(request).await.unwrap_or_else(|never| match never {})
}
