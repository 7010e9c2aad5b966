//! A request body of HTTP/1 that its handler did not read to the end, as when the request is refused. What is left of
//! it would be read as the next request. A small rest is read and discarded, so that the connection can be used again;
//! after another one the connection closes, and the answer says so.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

/// The largest rest that is discarded. A client sends a body of this size without a pause behind its headers.
const MAX_DISCARDED_BYTES: u64 = 16 * 1024;
/// How long the answer waits for the rest.
const DISCARD_TIME: Duration = Duration::from_millis(200);

/// A body as a handler reads it. If it is dropped before its end, its [`UnreadBody`] gets the rest.
pub(super) struct ObservedBody {
    /// `None` only while it is dropped.
    inner: Option<Incoming>,
    unread: Arc<Shared>,
}

/// What a handler leaves of a body.
pub(super) struct UnreadBody {
    shared: Arc<Shared>,
    discards: bool,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    rest: Mutex<Option<Incoming>>,
}

/// The body for the handler, and what it leaves of it. `discards`: whether a small rest is read.
pub(super) fn observe(body: Incoming, discards: bool) -> (ObservedBody, UnreadBody) {
    let shared = Arc::new(Shared::default());
    (ObservedBody { inner: Some(body), unread: shared.clone() }, UnreadBody { shared, discards })
}

impl UnreadBody {
    /// Whether the whole body is read after the handler has answered. Discards a small rest that arrives soon.
    pub(super) async fn finish(self) -> bool {
        if self.shared.ended.load(Ordering::Acquire) {
            return true;
        }
        let rest = self.shared.rest.lock().unwrap_or_else(PoisonError::into_inner).take();
        match rest {
            Some(rest) if self.discards => tokio::time::timeout(DISCARD_TIME, discard(rest)).await.unwrap_or(false),
            _ => false,
        }
    }
}

/// Whether the body ended within [`MAX_DISCARDED_BYTES`].
async fn discard(mut body: Incoming) -> bool {
    let mut discarded = 0;
    while discarded + body.size_hint().lower() <= MAX_DISCARDED_BYTES {
        match body.frame().await {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => discarded += frame.data_ref().map_or(0, Bytes::len) as u64,
        }
    }
    false
}

impl Body for ObservedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
        if frame.is_none() || inner.is_end_stream() {
            self.unread.ended.store(true, Ordering::Release);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for ObservedBody {
    fn drop(&mut self) {
        if !self.unread.ended.load(Ordering::Acquire) {
            *self.unread.rest.lock().unwrap_or_else(PoisonError::into_inner) = self.inner.take();
        }
    }
}
