//! One HTTP request to an endpoint, and its result.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use time::OffsetDateTime;
use tokio::time::{Instant as Deadline, timeout_at};
use tracing::debug;
use url::{Position, Url};

use crate::attempt::authorization::{Authorization, TokenSource};
use crate::attempt::connection::Connection;
use crate::attempt::connector::{self, ClientError, Connector};
use crate::attempt::egress::{AddressClass, EgressPolicy};
use crate::attempt::failure::{Failure, NotSent};
use crate::attempt::message::Message;
use crate::attempt::pool::{Origin, Pool};
use crate::attempt::resolver::Resolver;
use crate::attempt::sign;
use crate::attempt::timings::{Stopwatch, Timings};
use crate::attempt::tokens::{Token, Tokens};
use crate::endpoints::matching::Endpoint;
use crate::metrics::METRICS;
use crate::retry::policy::ReceiverAnswer;
use crate::retry::retry_after;

/// At most so much of a response's body is read.
const EXCERPT_BYTES: usize = 4096;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// Our ingest refuses the event of a webhook that came through too many.
const TRIGGERS_HOPS: HeaderName = HeaderName::from_static(schemas::headers::HOPS);
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

#[derive(Debug, Clone)]
pub(crate) struct RequestResult {
    pub started_at: OffsetDateTime,
    /// From the start of the request to the end of the response, or to the failure.
    pub latency: Duration,
    /// Parts of the latency; the rest is the body of the response.
    pub timings: Timings,
    /// The connection had served another request before.
    pub reused: bool,
    /// Where the connection led; `None`: there was none.
    pub remote: Option<SocketAddr>,
    pub answer: ReceiverAnswer,
    /// Why the status is not 2xx, as a short sentence.
    pub error: Option<String>,
    /// The start of the response's body as text.
    pub excerpt: Option<String>,
    /// Where the request was sent to, if that is public: a listed address may be confidential.
    pub remote_address: Option<IpAddr>,
}

/// Sends webhook requests. Cloning shares the connections.
///
/// HTTP/1 only. It follows no redirect, uses no proxy and decompresses nothing.
#[derive(Clone)]
pub(crate) struct WebhookClient {
    connector: Connector,
    pool: Pool,
    tokens: Tokens,
    policy: Arc<EgressPolicy>,
}

impl WebhookClient {
    /// # Errors
    /// If TLS or DNS cannot be set up.
    pub(crate) fn new(policy: Arc<EgressPolicy>, name_servers: &[SocketAddr]) -> Result<Self, ClientError> {
        Ok(Self::with(Connector::new(Resolver::new(name_servers)?, connector::tls_config()?), policy))
    }

    fn with(connector: Connector, policy: Arc<EgressPolicy>) -> Self {
        let tokens = Tokens::new(connector.clone(), policy.clone());
        Self { connector, pool: Pool::default(), tokens, policy }
    }

    /// Sends one request. A failure of the receiver is part of the result.
    ///
    /// # Errors
    /// If nothing was sent through no fault of the endpoint: that is no attempt.
    pub(crate) async fn send(&self, endpoint: &Endpoint, message: &Message<'_>) -> Result<RequestResult, NotSent> {
        let (started_at, started) = (OffsetDateTime::now_utc(), Instant::now());
        let mut watch = Stopwatch::start();
        let outcome = self.request(endpoint, message, started_at, &mut watch).await;
        let (answer, error, excerpt) = match outcome {
            Ok(received) => {
                let status = received.answer.status.unwrap_or_default();
                let error = (!received.is_success).then(|| format!("the endpoint answered {status}"));
                (received.answer, error, received.excerpt)
            }
            Err(Failure::NotSent(reason)) => return Err(reason),
            Err(failure) => (ReceiverAnswer { status: None, retry_after: None }, Some(failure.to_string()), None),
        };
        let result = RequestResult {
            started_at,
            latency: started.elapsed(),
            remote_address: watch
                .remote
                .map(|remote| remote.ip())
                .filter(|address| self.policy.of(message.org_id).classify(*address) == AddressClass::Public),
            timings: watch.stop(),
            reused: watch.reused,
            remote: watch.remote,
            answer,
            error,
            excerpt,
        };
        let (status, latency) = (result.answer.status, result.latency);
        debug!(
            endpoint_id = %endpoint.id, status, ?latency, timings = ?result.timings, reused = result.reused,
            remote = ?result.remote, "Webhook request finished."
        );
        Ok(result)
    }

    async fn request(
        &self,
        endpoint: &Endpoint,
        message: &Message<'_>,
        now: OffsetDateTime,
        watch: &mut Stopwatch,
    ) -> Result<EndpointResponse, Failure> {
        let deadline = Deadline::now() + endpoint.timeout;
        let policy = self.policy.of(message.org_id);
        // The addresses of a name are checked when it is resolved.
        policy.check_host(&endpoint.url)?;
        let mut origin = Origin::of(message.org_id, &endpoint.url).ok_or(Failure::Url)?;
        if let Some(Authorization::Certificate(certificate)) = &endpoint.authorization {
            origin.certificate = Some(certificate.clone());
        }
        let headers = headers(endpoint, message, now.unix_timestamp());
        let mut request = request(&endpoint.url, headers, message.body.clone())?;
        let timed_out = |_| Failure::Timeout(endpoint.timeout.as_secs());
        let mut is_renewed = false;
        let (connection, response) = loop {
            let token = self.authorize(endpoint, &mut request, deadline).await?;
            watch.restart();
            let exchange = self.exchange(&origin, request.clone(), &policy, watch);
            let (connection, response) = timeout_at(deadline, exchange).await.map_err(timed_out).flatten()?;
            match token {
                // The token may be revoked, or expire earlier than was said: once more, with a fresh one.
                Some((source, token)) if response.status() == StatusCode::UNAUTHORIZED && !is_renewed => {
                    self.tokens.reject(source, &token);
                    let mut rest = Vec::new();
                    self.finish(&origin, connection, response.into_body(), &mut rest, deadline).await;
                    is_renewed = true;
                }
                _ => break (connection, response),
            }
        };
        watch.stop();
        let (head, body) = response.into_parts();
        let requested = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let answer = ReceiverAnswer {
            status: Some(head.status.as_u16()),
            retry_after: requested.and_then(|value| retry_after::parse(value, now)),
        };
        // Only a response from the public Internet is shown: one from a listed address may be confidential.
        let is_public = policy.classify(connection.remote.ip()) == AddressClass::Public;
        let mut start = Vec::new();
        self.finish(&origin, connection, body, &mut start, deadline).await;
        let excerpt = (is_public && !start.is_empty()).then(|| text(&start));
        Ok(EndpointResponse { is_success: head.status.is_success(), answer, excerpt })
    }

    /// Sets the header `Authorization`, if the endpoint has one beside its own. `Some`: with this token.
    async fn authorize<'a>(
        &self,
        endpoint: &'a Endpoint,
        request: &mut Request<Full<Bytes>>,
        deadline: Deadline,
    ) -> Result<Option<(&'a Arc<TokenSource>, Arc<Token>)>, Failure> {
        match &endpoint.authorization {
            Some(Authorization::Header(value)) => {
                request.headers_mut().insert(AUTHORIZATION, value.clone());
                Ok(None)
            }
            Some(Authorization::Token(source)) => {
                let timed_out = |_| Failure::Timeout(endpoint.timeout.as_secs()).of_token();
                let token =
                    timeout_at(deadline, self.tokens.get(endpoint.org_id, source)).await.map_err(timed_out)??;
                request.headers_mut().insert(AUTHORIZATION, token.header.clone());
                Ok(Some((source, token)))
            }
            Some(Authorization::Certificate(_)) | None => Ok(None),
        }
    }

    /// Reads the start of an answer's body. If that is all of it, the connection is kept.
    async fn finish(
        &self,
        origin: &Origin,
        connection: Connection,
        mut body: Incoming,
        start: &mut Vec<u8>,
        deadline: Deadline,
    ) {
        if let Ok(true) = timeout_at(deadline, read_start(&mut body, start)).await {
            self.pool.put(origin.clone(), connection);
        }
    }

    /// Sends the request on an idle connection, or on a new one. The receiver may just have closed an idle connection:
    /// then no byte comes back, and the request is sent once more, on a new connection.
    async fn exchange(
        &self,
        origin: &Origin,
        request: Request<Full<Bytes>>,
        policy: &EgressPolicy,
        watch: &mut Stopwatch,
    ) -> Result<(Connection, Response<Incoming>), Failure> {
        if let Some(mut connection) = self.pool.take(origin) {
            watch.send(&connection);
            let read_before = connection.traffic.read_bytes();
            match connection.send(request.clone()).await {
                Ok(response) => return Ok((connection, response)),
                Err(_) if connection.traffic.read_bytes() > read_before => return Err(Failure::Broken),
                Err(_) => METRICS.stale_connections.inc(),
            }
            watch.connect_again();
        }
        let mut connection = self.connector.connect(origin, policy).await?;
        watch.send(&connection);
        let response = connection.send(request).await.map_err(|error| Failure::of_sending(&error))?;
        Ok((connection, response))
    }
}

struct EndpointResponse {
    is_success: bool,
    answer: ReceiverAnswer,
    excerpt: Option<String>,
}

/// A `POST` to a URL.
///
/// # Errors
/// If the URL cannot be sent.
pub(super) fn request(url: &Url, headers: HeaderMap, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
    let target = &url[Position::BeforePath..Position::AfterQuery];
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.parse::<Uri>().map_err(|_| Failure::Url)?;
    *request.headers_mut() = headers;
    let host = &url[Position::BeforeHost..Position::AfterPort];
    request.headers_mut().insert(HOST, HeaderValue::from_str(host).map_err(|_| Failure::Url)?);
    Ok(request)
}

fn headers(endpoint: &Endpoint, message: &Message<'_>, timestamp: i64) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(endpoint.headers.len() + 6);
    // The endpoint's own headers first, so that they cannot replace ours.
    for (name, value) in &endpoint.headers {
        headers.insert(name, value.clone());
    }
    let id = message.id.as_str();
    let signature = sign::sign(endpoint.secrets.at(timestamp), id, timestamp, &message.body);
    if let Some(signer) = &endpoint.compat_signer
        && let Some(value) = signer.value(endpoint.secrets.at(timestamp), timestamp, &message.body)
    {
        headers.insert(&signer.header, value);
    }
    let ours =
        [(WEBHOOK_ID, Some(id)), (WEBHOOK_SIGNATURE, Some(signature.as_str())), (TRACEPARENT, message.traceparent)];
    for (name, value) in ours {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(name, value);
        }
    }
    headers.insert(TRIGGERS_HOPS, HeaderValue::from(message.hops.saturating_add(1)));
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp));
    headers.insert(CONTENT_TYPE, message.content_type.clone());
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("Triggers/", env!("CARGO_PKG_VERSION"))));
    headers
}

/// Reads the start of the body. `true`: that was all of it, so the connection can be used again. The status has decided
/// already, so a body that breaks off changes nothing.
async fn read_start(body: &mut Incoming, bytes: &mut Vec<u8>) -> bool {
    while bytes.len() < EXCERPT_BYTES {
        match body.frame().await {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => {
                let chunk = frame.into_data().unwrap_or_default();
                bytes.extend_from_slice(chunk.get(..EXCERPT_BYTES - bytes.len()).unwrap_or(&chunk));
            }
        }
    }
    body.is_end_stream()
}

/// Any bytes as text of at most [`EXCERPT_BYTES`], without NUL, which PostgreSQL refuses.
fn text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(EXCERPT_BYTES));
    text
}

#[cfg(test)]
mod auth_tests;
#[cfg(test)]
mod tests;
