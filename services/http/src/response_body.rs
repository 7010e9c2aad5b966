//! Bodies of responses: what one holds is counted until the client has read it, and the client must read it in time. A
//! small one of HTTP/1 is exempt.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body as AnyBody;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use runtime::budget::{Exhausted, Permit};

use super::budgets::{Holder, UNCOUNTED_RESPONSE_BYTES, held};
use super::connection_timer::{OpenRequest, UnsentResponse};
use super::context::RequestContext;
use super::problem::Problem;
use super::server_limits::ServerLimits;

/// What hyper and h2 hold for an answer that nobody reads, besides its body: the stream, its task and its headers.
const STREAM_BYTES: u64 = 8 * 1024;

/// Bytes that a handler has taken for its response before it made it, such as for the rows of a page. A handler puts it
/// into the extensions of the response; it is then held until the response is sent.
#[derive(Clone)]
pub struct ResponseReservation(Arc<Permit>);

impl ResponseReservation {
    /// Keeps `permit` until the response is sent.
    pub fn new(permit: Permit) -> Self {
        Self(Arc::new(permit))
    }
}

/// Counts the body of a large response until it is sent.
///
/// # Errors
/// When too many bytes of responses are held already.
pub(super) fn count(mut response: Response, context: &RequestContext) -> Result<Response, Problem> {
    let reserved = response.extensions_mut().remove::<ResponseReservation>();
    let bytes = response.body().size_hint().exact().unwrap_or(0);
    let Some(holder) = context.holder().filter(|_| bytes > UNCOUNTED_RESPONSE_BYTES) else { return Ok(response) };
    let permit = match reserved.and_then(|reserved| Arc::into_inner(reserved.0)) {
        Some(mut permit) => {
            permit.shrink_to(bytes);
            let more = bytes.saturating_sub(permit.amount());
            permit.grow(more).map_err(super::budgets::response_problem)?;
            permit
        }
        None => holder.take_response(bytes)?,
    };
    let permit = Arc::new(permit);
    Ok(response.map(|body| AnyBody::new(HeldBody { inner: body, held: permit })))
}

/// Counts what an answer on a stream of HTTP/2 holds, without the body of a large response, which is counted already.
/// `None`: it has no body, so nothing can keep it from being sent.
pub(super) fn count_stream(response: &Response, holder: &Holder) -> Result<Option<Permit>, Exhausted> {
    if response.body().is_end_stream() {
        return Ok(None);
    }
    let uncounted = response.body().size_hint().exact().filter(|bytes| *bytes <= UNCOUNTED_RESPONSE_BYTES);
    holder.responses().take(STREAM_BYTES + uncounted.unwrap_or(0)).map(Some)
}

/// A body whose bytes hold something until hyper has written them.
struct HeldBody<H> {
    inner: AnyBody,
    held: Arc<H>,
}

impl<H: Send + Sync + 'static> Body for HeldBody<H> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        let kept = &self.held;
        frame.map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| held(bytes, kept.clone())))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of a response on a connection. The request is open until it is dropped.
pub(super) struct ConnectionBody {
    inner: AnyBody,
    _request: OpenRequest,
}

impl ConnectionBody {
    /// A client must read a body in the time that `limits` allow, unless it is a small one of HTTP/1. `stream`: what
    /// the answer holds on a stream of HTTP/2.
    pub(super) fn new(body: AnyBody, request: OpenRequest, limits: &ServerLimits, stream: Option<Permit>) -> Self {
        let inner = match body.size_hint().exact() {
            Some(bytes) if bytes > UNCOUNTED_RESPONSE_BYTES || stream.is_some() => {
                let unsent: UnsentResponse = request.timer().response_started(bytes, limits);
                AnyBody::new(HeldBody { inner: body, held: Arc::new((unsent, stream)) })
            }
            _ if stream.is_some() => AnyBody::new(HeldBody { inner: body, held: Arc::new(stream) }),
            _ => body,
        };
        Self { inner, _request: request }
    }
}

impl Body for ConnectionBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
