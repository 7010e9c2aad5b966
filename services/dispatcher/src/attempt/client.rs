//! One HTTP request to an endpoint, and its result.

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, redirect};
use time::OffsetDateTime;

use crate::attempt::body;
use crate::attempt::egress::{AddressClass, EgressPolicy};
use crate::attempt::resolver::{AddressRefused, GuardedResolver, NameUnknown};
use crate::attempt::sign;
use crate::delivery::OutboundEvent;
use crate::endpoints::matching::Endpoint;
use crate::retry::policy::ReceiverAnswer;
use crate::retry::retry_after;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shorter than servers keep idle connections: a POST on a connection that the server just closed would fail.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);
const POOL_MAX_IDLE_PER_HOST: usize = 16;
/// At most so much of a response's body is read.
const EXCERPT_BYTES: usize = 4096;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// Our ingest refuses the event of a webhook that came through too many.
const TRIGGERS_HOPS: HeaderName = HeaderName::from_static(schemas::headers::HOPS);
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The TLS provider or the system's root certificates cannot be used. Fatal at start.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for webhooks could not be created (are root certificates installed?): {0}")]
pub struct ClientError(#[source] reqwest::Error);

#[derive(Debug, Clone)]
pub(crate) struct RequestResult {
    pub started_at: OffsetDateTime,
    /// From the start of the request to the end of the response, or to the failure.
    pub latency: Duration,
    pub answer: ReceiverAnswer,
    /// Why the status is not 2xx, as a short sentence.
    pub error: Option<String>,
    /// The start of the response's body as text.
    pub excerpt: Option<String>,
    /// Resolving the name and opening the connection; `None`: the HTTP library does not say.
    pub connect: Option<Duration>,
    /// Writing the request; `None`: the HTTP library does not say.
    pub send: Option<Duration>,
    /// From the end of the request to the head of the response; from the start of the request, while `send` is unknown.
    pub wait: Option<Duration>,
    /// Where the request was sent to, if that is public: a listed address may be confidential.
    pub remote_address: Option<IpAddr>,
}

/// Sends webhook requests. Cloning shares the connections.
#[derive(Clone)]
pub(crate) struct WebhookClient {
    client: Client,
    policy: Arc<EgressPolicy>,
}

impl WebhookClient {
    /// # Errors
    /// If TLS cannot be set up.
    pub(crate) fn new(policy: Arc<EgressPolicy>) -> Result<Self, ClientError> {
        // An error means that another part of the process has installed it already.
        let _installed_before = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("Triggers/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            // A proxy from the environment would resolve names without the egress policy.
            .no_proxy()
            .dns_resolver(Arc::new(GuardedResolver::new(policy.clone())))
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(POOL_MAX_IDLE_PER_HOST)
            .build()
            .map_err(ClientError)?;
        Ok(Self { client, policy })
    }

    /// Sends one request. Every failure is part of the result.
    pub(crate) async fn send(&self, endpoint: &Endpoint, event: &OutboundEvent) -> RequestResult {
        let started_at = OffsetDateTime::now_utc();
        let started = Instant::now();
        // The resolver checks names; it never sees a literal address.
        let outcome = if self.policy.check_literal(&endpoint.url) == Some(AddressClass::Refused) {
            Err(AddressRefused.to_string())
        } else {
            self.request(endpoint, event, started_at).await.map_err(|error| describe(&error, endpoint.timeout))
        };
        let failed = |error| RequestResult {
            started_at,
            latency: started.elapsed(),
            answer: ReceiverAnswer { status: None, retry_after: None },
            error: Some(error),
            excerpt: None,
            connect: None,
            send: None,
            wait: None,
            remote_address: None,
        };
        match outcome {
            Ok(received) => RequestResult {
                started_at,
                latency: started.elapsed(),
                error: (!received.is_success)
                    .then(|| format!("the endpoint answered {}", received.answer.status.unwrap_or_default())),
                answer: received.answer,
                excerpt: received.excerpt,
                connect: None,
                send: None,
                wait: Some(received.wait),
                remote_address: received.remote_address,
            },
            Err(error) => failed(error),
        }
    }

    async fn request(
        &self,
        endpoint: &Endpoint,
        event: &OutboundEvent,
        now: OffsetDateTime,
    ) -> Result<EndpointResponse, reqwest::Error> {
        let body = body::request_body(event);
        let headers = headers(endpoint, event, now.unix_timestamp(), &body);
        let request = self.client.post(endpoint.url.clone()).headers(headers).timeout(endpoint.timeout).body(body);
        let sending = Instant::now();
        let response = request.send().await?;
        let wait = sending.elapsed();
        let status = response.status();
        let requested = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let answer = ReceiverAnswer {
            status: Some(status.as_u16()),
            retry_after: requested.and_then(|value| retry_after::parse(value, now)),
        };
        // Only a response from the public Internet is shown: one from a listed address may be confidential.
        let remote_address = response
            .remote_addr()
            .map(|address| address.ip())
            .filter(|address| self.policy.classify(*address) == AddressClass::Public);
        let excerpt = excerpt(response).await.filter(|_| remote_address.is_some());
        Ok(EndpointResponse { is_success: status.is_success(), answer, excerpt, wait, remote_address })
    }
}

struct EndpointResponse {
    is_success: bool,
    answer: ReceiverAnswer,
    excerpt: Option<String>,
    wait: Duration,
    remote_address: Option<IpAddr>,
}

fn headers(endpoint: &Endpoint, event: &OutboundEvent, timestamp: i64, body: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(endpoint.headers.len() + 6);
    // The endpoint's own headers first, so that they cannot replace ours.
    for (name, value) in &endpoint.headers {
        headers.insert(name, value.clone());
    }
    let id = event.event_id.to_string();
    let signature = sign::sign(endpoint.secrets.at(timestamp), &id, timestamp, body);
    let ours = [(WEBHOOK_ID, Some(id)), (WEBHOOK_SIGNATURE, Some(signature)), (TRACEPARENT, event.traceparent.clone())];
    for (name, value) in ours {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(name, value);
        }
    }
    headers.insert(TRIGGERS_HOPS, HeaderValue::from(event.hops.saturating_add(1)));
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

/// Reads the start of the body. The status has decided already, so a body that breaks off changes nothing. A short body
/// is read to its end, so that the connection can be used again; a long one closes it.
async fn excerpt(mut response: Response) -> Option<String> {
    let mut bytes = Vec::new();
    while bytes.len() < EXCERPT_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        bytes.extend_from_slice(chunk.get(..EXCERPT_BYTES - bytes.len()).unwrap_or(&chunk));
    }
    (!bytes.is_empty()).then(|| text(&bytes))
}

/// Any bytes as text of at most [`EXCERPT_BYTES`], without NUL, which PostgreSQL refuses.
fn text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(EXCERPT_BYTES));
    text
}

/// A short sentence without addresses, URLs or internal details of the library.
fn describe(error: &reqwest::Error, timeout: Duration) -> String {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<AddressRefused>() || cause.is::<NameUnknown>() {
            return cause.to_string();
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return "the connection was refused".to_owned();
        }
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return format!("TLS failed: {tls}");
        }
        source = cause.source();
    }
    if error.is_timeout() {
        let seconds = if error.is_connect() { CONNECT_TIMEOUT.min(timeout).as_secs() } else { timeout.as_secs() };
        format!("no response within {seconds} s")
    } else if error.is_connect() {
        "the connection could not be made".to_owned()
    } else {
        "the connection broke before the response".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_text_without_nul() {
        assert_eq!(text(b"a\0b"), "a\u{fffd}b");
        assert_eq!(text(&[0xff; 3]), "\u{fffd}\u{fffd}\u{fffd}");
        let long = text(&[0xff; EXCERPT_BYTES]);
        assert!(long.len() <= EXCERPT_BYTES && long.len() > EXCERPT_BYTES - 4);
    }
}
