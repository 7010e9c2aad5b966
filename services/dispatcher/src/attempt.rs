//! One HTTP request to an endpoint, and what came of it. Whether there is another one is decided in `schedule`;
//! reporting is `flight`'s.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, redirect};
use time::OffsetDateTime;

use crate::body;
use crate::delivery::Accepted;
use crate::egress::{EgressPolicy, Reach};
use crate::matching::Endpoint;
use crate::resolver::{AddressRefused, GuardedResolver, NameUnknown};
use crate::retry_after;
use crate::retry_policy::Answer;
use crate::sign;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Below what servers keep idle connections for: a POST into a connection that the other end just closed would fail.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);
const POOL_MAX_IDLE_PER_HOST: usize = 16;
/// Most of an answer's body that is read.
const EXCERPT_BYTES: usize = 4096;

const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The client could not be made: the TLS provider or the system's root certificates are not usable. Fatal at start.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for webhooks could not be made (are root certificates installed?): {0}")]
pub struct ClientError(#[source] reqwest::Error);

/// What came of one request.
#[derive(Debug, Clone)]
pub(crate) struct Attempted {
    pub started_at: OffsetDateTime,
    /// From its begin to the end of the answer, or to the failure.
    pub latency: Duration,
    /// Status and `Retry-After`.
    pub answer: Answer,
    /// Why there was no 2xx, as a short sentence.
    pub error: Option<String>,
    /// The first bytes of the answer's body as text.
    pub excerpt: Option<String>,
}

/// Sends webhook requests. Cloning shares the connections.
#[derive(Clone)]
pub(crate) struct WebhookClient {
    client: Client,
    policy: Arc<EgressPolicy>,
}

impl WebhookClient {
    /// Makes the client.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(crate) fn new(policy: Arc<EgressPolicy>) -> Result<Self, ClientError> {
        // Already installed by another part of the process is as good.
        let _installed_before = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("Triggers/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            // A proxy from the environment would resolve names behind the guard's back.
            .no_proxy()
            .dns_resolver(Arc::new(GuardedResolver::new(policy.clone())))
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(POOL_MAX_IDLE_PER_HOST)
            .build()
            .map_err(ClientError)?;
        Ok(Self { client, policy })
    }

    /// Makes one attempt. Whatever happens is an answer.
    pub(crate) async fn send(&self, endpoint: &Endpoint, event: &Accepted) -> Attempted {
        let started_at = OffsetDateTime::now_utc();
        let begun = Instant::now();
        // Names are judged by the resolver; a literal address never gets there.
        let outcome = if self.policy.check_literal(&endpoint.url) == Some(Reach::Refused) {
            Err(AddressRefused.to_string())
        } else {
            self.request(endpoint, event, started_at).await.map_err(|error| describe(&error, endpoint.timeout))
        };
        let failed = |error| Attempted {
            started_at,
            latency: begun.elapsed(),
            answer: Answer { status: None, retry_after: None },
            error: Some(error),
            excerpt: None,
        };
        match outcome {
            Ok(received) => Attempted {
                started_at,
                latency: begun.elapsed(),
                error: (!received.is_success)
                    .then(|| format!("the endpoint answered {}", received.answer.status.unwrap_or_default())),
                answer: received.answer,
                excerpt: received.excerpt,
            },
            Err(error) => failed(error),
        }
    }

    async fn request(
        &self,
        endpoint: &Endpoint,
        event: &Accepted,
        now: OffsetDateTime,
    ) -> Result<Received, reqwest::Error> {
        let body = body::request_body(event.event_id, &event.event_type, event.accepted_at, &event.payload);
        let headers = headers(endpoint, event, now.unix_timestamp(), &body);
        let request = self.client.post(endpoint.url.clone()).headers(headers).timeout(endpoint.timeout).body(body);
        let response = request.send().await?;
        let status = response.status();
        let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let answer = Answer {
            status: Some(status.as_u16()),
            retry_after: asked.and_then(|value| retry_after::parse(value, now)),
        };
        // Only an answer from the public Internet is shown: one from a listed address may hold what its owner would not
        // show outsiders.
        let public = response.remote_addr().is_some_and(|address| self.policy.reach(address.ip()) == Reach::Public);
        let excerpt = excerpt(response).await.filter(|_| public);
        Ok(Received { is_success: status.is_success(), answer, excerpt })
    }
}

struct Received {
    is_success: bool,
    answer: Answer,
    excerpt: Option<String>,
}

fn headers(endpoint: &Endpoint, event: &Accepted, timestamp: i64, body: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(endpoint.headers.len() + 5);
    // The endpoint's own first, so that none of ours can be replaced.
    for (name, value) in &endpoint.headers {
        headers.insert(name, value.clone());
    }
    let id = event.event_id.to_string();
    let signature = sign::sign(&endpoint.secrets, &id, timestamp, body);
    let ours = [(WEBHOOK_ID, Some(id)), (WEBHOOK_SIGNATURE, Some(signature)), (TRACEPARENT, event.traceparent.clone())];
    for (name, value) in ours {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(name, value);
        }
    }
    headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(timestamp));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

/// Reads the begin of the body. The status has already decided, so a body that breaks off, or never ends, changes
/// nothing. What fits is read to its end, which lets the connection be used again; what does not closes it.
async fn excerpt(mut response: Response) -> Option<String> {
    let mut bytes = Vec::new();
    while bytes.len() < EXCERPT_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        bytes.extend_from_slice(chunk.get(..EXCERPT_BYTES - bytes.len()).unwrap_or(&chunk));
    }
    (!bytes.is_empty()).then(|| text(&bytes))
}

/// Any bytes as text of at most as many bytes as an excerpt has, without the one character that PostgreSQL does not
/// take.
fn text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(EXCERPT_BYTES));
    text
}

/// A short sentence without addresses, URLs or what the library says to itself.
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
        format!("no answer within {seconds} s")
    } else if error.is_connect() {
        "the connection could not be made".to_owned()
    } else {
        "the connection broke before there was an answer".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_text_that_the_database_takes_and_stays_short() {
        assert_eq!(text(b"a\0b"), "a\u{fffd}b");
        assert_eq!(text(&[0xff; 3]), "\u{fffd}\u{fffd}\u{fffd}");
        let long = text(&[0xff; EXCERPT_BYTES]);
        assert!(long.len() <= EXCERPT_BYTES && long.len() > EXCERPT_BYTES - 4);
    }
}
