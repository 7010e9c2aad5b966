//! What is known of a request before any handler runs: its id, its trace, the dialect of its mount, when it came and
//! from where.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use schemas::headers::{TRACEPARENT, TRACESTATE};
use schemas::trace::{is_traceparent, is_tracestate};
use uuid::Uuid;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const LONGEST_REQUEST_ID: usize = 128;

/// In which manner a mount answers. Mounts differ in nothing else.
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

    /// The status that says "invalid request".
    pub fn invalid_status(self) -> StatusCode {
        match self {
            Self::Canonical => StatusCode::BAD_REQUEST,
            Self::Api => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }
}

/// Made once per request by the edge layer; an extractor for handlers.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// The client's `X-Request-Id` or `X-Correlation-Id` when sane, else a random UUID. 1 to 128 visible ASCII
    /// characters.
    pub request_id: Arc<str>,
    /// W3C trace context as the client sent it, when its shape is right.
    pub traceparent: Option<String>,
    /// What vendors add to `traceparent`, as the client sent it; never without one. Printable ASCII, at most 512 bytes.
    pub tracestate: Option<String>,
    /// Of the mount that was asked.
    pub dialect: Dialect,
    /// When the headers had been read.
    pub received: Instant,
}

impl RequestContext {
    /// The context of a request with these headers and this URI.
    pub fn new(headers: &HeaderMap, uri: &Uri) -> Self {
        let traceparent =
            headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).filter(|text| is_traceparent(text));
        Self {
            request_id: given_id(headers).map_or_else(made_id, Arc::from),
            traceparent: traceparent.map(str::to_owned),
            tracestate: traceparent.and_then(|_| given_tracestate(headers)),
            dialect: Dialect::of(uri.path()),
            received: Instant::now(),
        }
    }

    /// The id as a header value; it is visible ASCII by construction.
    pub(super) fn id_header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.request_id).unwrap_or_else(|_| HeaderValue::from_static("-"))
    }
}

/// Where the layer is missing (a router in a test) a context is made on the spot.
impl<S: Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(|| Self::new(&parts.headers, &parts.uri)))
    }
}

fn given_id(headers: &HeaderMap) -> Option<&str> {
    [REQUEST_ID, CORRELATION_ID].into_iter().find_map(|name| headers.get(name).and_then(sane_id))
}

fn sane_id(value: &HeaderValue) -> Option<&str> {
    let sane = (1..=LONGEST_REQUEST_ID).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic);
    if sane { value.to_str().ok() } else { None }
}

/// A list that may be spread over several headers.
fn given_tracestate(headers: &HeaderMap) -> Option<String> {
    let parts: Option<Vec<&str>> = headers.get_all(TRACESTATE).iter().map(|value| value.to_str().ok()).collect();
    parts.map(|parts| parts.join(",")).filter(|text| is_tracestate(text))
}

pub(super) fn made_id() -> Arc<str> {
    // From the thread's generator: asking the kernel for every request would cost more than the rest of the layer.
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    Arc::from(&*id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

/// The address at the other end of the socket. Unspecified where there is no socket, as in a test that calls a router
/// directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

impl<S: Sync> FromRequestParts<S> for PeerAddr {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().copied().unwrap_or(Self(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))))
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
    fn only_sane_ids_are_taken_over() {
        assert_eq!(&*id_of("x-request-id", b"abc-1"), "abc-1");
        assert_eq!(&*id_of("x-correlation-id", &[b'a'; 128]), "a".repeat(128));
        for insane in [&b""[..], b"a b", b"\xe9", b"tab\there", &[b'a'; 129]] {
            let id = id_of("x-request-id", insane);
            assert!(Uuid::parse_str(&id).is_ok(), "{insane:?} became {id}");
        }
    }

    #[test]
    fn an_insane_request_id_leaves_room_for_a_sane_correlation_id() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("not sane"));
        headers.insert(CORRELATION_ID, HeaderValue::from_static("sane"));
        assert_eq!(&*RequestContext::new(&headers, &Uri::from_static("/")).request_id, "sane");
    }

    #[test]
    fn a_dialect_is_told_by_the_first_segment() {
        assert_eq!(Dialect::of("/api/events"), Dialect::Api);
        assert_eq!(Dialect::of("/api"), Dialect::Api);
        assert_eq!(Dialect::of("/apis"), Dialect::Canonical);
        assert_eq!(Dialect::of("/v1/api"), Dialect::Canonical);
        assert_eq!(Dialect::of("/"), Dialect::Canonical);
    }

    #[test]
    fn trace_contexts_of_another_shape_are_not_passed_on() {
        let sane = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let of_nothing = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
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
        assert_eq!(trace_of(sane, &[]), kept(sane, None));
        assert_eq!(trace_of(sane, &[b"a=1", b"b=2"]), kept(sane, Some("a=1,b=2")));
        assert_eq!(trace_of(sane, &[b"a=\xe9"]), kept(sane, None));
        assert_eq!(trace_of(of_nothing, &[b"a=1"]), (None, None));
    }
}
