//! The context of a request, made before any handler runs: request id, trace context, dialect, time and peer address.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use schemas::headers::{TRACEPARENT, TRACESTATE};
use schemas::trace::{is_traceparent, is_tracestate};
use uuid::Uuid;

use super::budgets::Holder;
use super::rate_limit::RateLimitSlot;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const MAX_REQUEST_ID_BYTES: usize = 128;

/// How a mount formats its responses. Mounts differ in nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `/v1` and `/`.
    Canonical,
    /// `/api`, for clients of older trigger APIs.
    Api,
}

impl Dialect {
    /// The dialect of the mount that a path belongs to.
    pub(super) fn of(path: &str) -> Self {
        match path.strip_prefix("/api") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Self::Api,
            _ => Self::Canonical,
        }
    }

    /// The status code for an invalid request.
    pub fn invalid_status(self) -> StatusCode {
        match self {
            Self::Canonical => StatusCode::BAD_REQUEST,
            Self::Api => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }
}

/// The context of a request. The request layer makes it; handlers extract it.
#[derive(Clone)]
pub struct RequestContext {
    /// The client's `X-Request-Id` or `X-Correlation-Id` if it is valid (1 to 128 visible ASCII characters), else a
    /// random UUID.
    pub request_id: Arc<str>,
    /// W3C trace context as the client sent it; `None` if it is not valid.
    pub traceparent: Option<String>,
    /// W3C `tracestate` as the client sent it: printable ASCII, at most 512 bytes; `None` without a `traceparent`.
    pub tracestate: Option<String>,
    /// Dialect of the mount.
    pub dialect: Dialect,
    /// When the headers were complete.
    pub received: Instant,
    /// What the rate limit of the request has left.
    pub rate_limit: RateLimitSlot,
    address: Option<Holder>,
    findings: Arc<Findings>,
}

/// What is found out about a request while it is handled. The request layer, which holds the same context, reads it
/// when the handler has answered.
#[derive(Default)]
struct Findings {
    /// The organization, once the key is known to be valid.
    organization: OnceLock<Holder>,
}

impl RequestContext {
    /// The context of a request with these headers and this URI.
    pub fn new(headers: &HeaderMap, uri: &Uri) -> Self {
        let traceparent =
            headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).filter(|text| is_traceparent(text));
        Self {
            request_id: client_request_id(headers).map_or_else(generate_request_id, Arc::from),
            traceparent: traceparent.map(str::to_owned),
            tracestate: traceparent.and_then(|_| client_tracestate(headers)),
            dialect: Dialect::of(uri.path()),
            received: Instant::now(),
            address: None,
            findings: Arc::default(),
            rate_limit: RateLimitSlot::default(),
        }
    }

    /// The holder of what this request keeps in memory: its organization once the key is known, its address before;
    /// `None` without a server, as in a test of a router.
    pub fn holder(&self) -> Option<Holder> {
        self.findings.organization.get().or(self.address.as_ref()).cloned()
    }

    /// Says that the request has a valid key of this organization. The first call counts.
    pub fn belongs_to(&self, organization: Holder) {
        let _first_wins = self.findings.organization.set(organization);
    }

    /// Whether the request had a valid key.
    pub(super) fn has_valid_key(&self) -> bool {
        self.findings.organization.get().is_some()
    }

    /// The context of a request that came from this address.
    pub(super) fn with_address(mut self, address: Option<Holder>) -> Self {
        self.address = address;
        self
    }

    /// The request id as a header value.
    pub(super) fn id_header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.request_id).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }
}

/// Without the request layer, as in a test of a router, the extractor makes a new context.
impl<S: Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(|| Self::new(&parts.headers, &parts.uri)))
    }
}

fn client_request_id(headers: &HeaderMap) -> Option<&str> {
    [REQUEST_ID, CORRELATION_ID].into_iter().find_map(|name| headers.get(name).and_then(valid_id))
}

fn valid_id(value: &HeaderValue) -> Option<&str> {
    let is_valid =
        (1..=MAX_REQUEST_ID_BYTES).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic);
    if is_valid { value.to_str().ok() } else { None }
}

/// The `tracestate` list, which may be spread over several headers.
fn client_tracestate(headers: &HeaderMap) -> Option<String> {
    let parts: Option<Vec<&str>> = headers.get_all(TRACESTATE).iter().map(|value| value.to_str().ok()).collect();
    parts.map(|parts| parts.join(",")).filter(|text| is_tracestate(text))
}

pub(super) fn generate_request_id() -> Arc<str> {
    // The thread's generator: a system call per request would cost more than the rest of the layer.
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    Arc::from(&*id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

/// The address of the client: that of its socket or, behind a proxy from `TRUSTED_PROXIES`, the one that the proxy
/// names. Unspecified (0.0.0.0) without a socket, as in a test that calls a router directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

impl<S: Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().copied().unwrap_or(Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(name: &'static str, value: &[u8]) -> Arc<str> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_bytes(value).unwrap());
        RequestContext::new(&headers, &Uri::from_static("/")).request_id
    }

    #[test]
    fn only_valid_request_ids_are_kept() {
        assert_eq!(&*id_of("x-request-id", b"abc-1"), "abc-1");
        assert_eq!(&*id_of("x-correlation-id", &[b'a'; 128]), "a".repeat(128));
        for invalid in [&b""[..], b"a b", b"\xe9", b"tab\there", &[b'a'; 129]] {
            let id = id_of("x-request-id", invalid);
            assert!(Uuid::parse_str(&id).is_ok(), "{invalid:?} became {id}");
        }
    }

    #[test]
    fn a_valid_correlation_id_replaces_an_invalid_request_id() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("not valid"));
        headers.insert(CORRELATION_ID, HeaderValue::from_static("valid"));
        assert_eq!(&*RequestContext::new(&headers, &Uri::from_static("/")).request_id, "valid");
    }

    #[test]
    fn the_first_segment_decides_the_dialect() {
        assert_eq!(Dialect::of("/api/events"), Dialect::Api);
        assert_eq!(Dialect::of("/api"), Dialect::Api);
        assert_eq!(Dialect::of("/apis"), Dialect::Canonical);
        assert_eq!(Dialect::of("/v1/api"), Dialect::Canonical);
        assert_eq!(Dialect::of("/"), Dialect::Canonical);
    }

    #[test]
    fn invalid_trace_contexts_are_dropped() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let all_zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let trace_of = |parent: &'static str, states: &[&'static [u8]]| {
            let mut headers =
                HeaderMap::from_iter([(HeaderName::from_static(TRACEPARENT), HeaderValue::from_static(parent))]);
            for state in states {
                headers.append(TRACESTATE, HeaderValue::from_bytes(state).unwrap());
            }
            let context = RequestContext::new(&headers, &Uri::from_static("/"));
            (context.traceparent, context.tracestate)
        };
        let kept = |parent: &str, state: Option<&str>| (Some(parent.to_owned()), state.map(str::to_owned));
        assert_eq!(trace_of(valid, &[]), kept(valid, None));
        assert_eq!(trace_of(valid, &[b"a=1", b"b=2"]), kept(valid, Some("a=1,b=2")));
        assert_eq!(trace_of(valid, &[b"a=\xe9"]), kept(valid, None));
        assert_eq!(trace_of(all_zero, &[b"a=1"]), (None, None));
    }
}
