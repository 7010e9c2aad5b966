//! One HTTP/1 connection to a receiver. It knows how many requests it has served, how much it has read, and when it
//! has written last: from that follows whether a request may be sent again, and how long its parts took.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::task::AbortOnDropHandle;

/// The head of an answer, and what is read ahead of its body, fit into this.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// Dropping it closes the connection.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    pub traffic: Arc<Traffic>,
    pub remote: SocketAddr,
    /// Requests that were sent before.
    pub served: u32,
    _driver: AbortOnDropHandle<()>,
}

impl Connection {
    /// # Errors
    /// If HTTP cannot start on the stream.
    pub(crate) async fn open<S>(stream: S, remote: SocketAddr) -> Result<Self, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let traffic = Arc::new(Traffic::new());
        let stream = TokioIo::new(Observed { stream, traffic: traffic.clone(), is_flushed: true });
        let (sender, driver) = http1::Builder::new().max_buf_size(READ_BUFFER_BYTES).handshake(stream).await?;
        let driver = tokio::spawn(async move {
            // The request gets the error.
            let _outcome = driver.await;
        });
        Ok(Self { sender, traffic, remote, served: 0, _driver: AbortOnDropHandle::new(driver) })
    }

    /// Whether it takes a request, as far as is known: the receiver may just close it.
    pub(crate) fn is_ready(&self) -> bool {
        self.sender.is_ready() && !self.sender.is_closed()
    }

    /// Waits until it takes a request; `false`: it is closed.
    pub(crate) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// If the connection broke, or the answer is not HTTP.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        self.served = self.served.saturating_add(1);
        self.sender.send_request(request).await
    }
}

/// What went over a connection, without TLS.
#[derive(Debug)]
pub(crate) struct Traffic {
    opened: Instant,
    read_bytes: AtomicU64,
    /// Microseconds from `opened` to the last write; 0: none.
    written: AtomicU64,
}

impl Traffic {
    fn new() -> Self {
        Self { opened: Instant::now(), read_bytes: AtomicU64::new(0), written: AtomicU64::new(0) }
    }

    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Acquire)
    }

    /// When the last byte was written.
    pub(crate) fn written_at(&self) -> Option<Instant> {
        let micros = self.written.load(Ordering::Acquire);
        (micros > 0).then(|| self.opened + Duration::from_micros(micros))
    }

    fn note_write(&self) {
        let micros = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.written.store(micros.max(1), Ordering::Release);
    }
}

struct Observed<S> {
    stream: S,
    traffic: Arc<Traffic>,
    /// Nothing was written since the last flush.
    is_flushed: bool,
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        let read = buffer.filled().len().saturating_sub(before);
        self.traffic.read_bytes.fetch_add(read as u64, Ordering::AcqRel);
        Poll::Ready(outcome)
    }
}

impl<S: AsyncWrite + Unpin> Observed<S> {
    fn written(&mut self, outcome: io::Result<usize>) -> io::Result<usize> {
        if outcome.is_ok() {
            self.is_flushed = false;
            self.traffic.note_write();
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        Poll::Ready(self.written(outcome))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices));
        Poll::Ready(self.written(outcome))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// With TLS, a write may only fill a buffer that the flush sends.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        if outcome.is_ok() && !self.is_flushed {
            self.is_flushed = true;
            self.traffic.note_write();
        }
        Poll::Ready(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
