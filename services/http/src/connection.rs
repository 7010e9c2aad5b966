//! Timeouts of one connection: for headers, for idle time and for clients that do not read.
//!
//! hyper's own header timeout also runs while a connection is idle. It would close pooled connections after seconds,
//! sometimes while the client is sending a request. So this file tracks the phases, and hyper's timeout is off.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::server_limits::ServerLimits;

/// Lingering close: how long unread bytes are read and discarded after the last response. Closing a socket with unread
/// bytes resets it, and the client might lose the response.
const LINGER_TIME: Duration = Duration::from_secs(1);
/// The most bytes that a lingering close reads.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

const HEADERS: u8 = 0;
const REQUEST: u8 = 1;
const IDLE: u8 = 2;
const NOT_BLOCKED: u64 = u64::MAX;

/// The phase of a connection and the time it started. Only the connection's task uses it; the fields are atomic because
/// the task may move between threads.
pub(super) struct ConnectionTimer {
    opened: Instant,
    phase: AtomicU8,
    /// When the phase started, milliseconds since `opened`.
    phase_since: AtomicU64,
    /// Since when writes are blocked because the client does not read, milliseconds since `opened`.
    blocked_since: AtomicU64,
    linger: AtomicBool,
}

/// Which timeout expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    None,
    /// The idle timeout: the connection is closed gracefully.
    Idle,
    /// The client sends or reads too slowly: the connection is dropped.
    SlowClient,
}

impl ConnectionTimer {
    /// A new connection. The header timeout runs from now.
    pub(super) fn new() -> Self {
        Self {
            opened: Instant::now(),
            phase: AtomicU8::new(HEADERS),
            phase_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(NOT_BLOCKED),
            linger: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn enter(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
        self.phase_since.store(self.now(), Ordering::Relaxed);
    }

    /// Called when the headers are complete.
    pub(super) fn request_started(&self) {
        self.enter(REQUEST);
        self.linger.store(false, Ordering::Relaxed);
    }

    /// Called when a response is sent although the request's body may not have been read completely.
    pub(super) fn linger_on_close(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    fn bytes_read(&self) {
        if self.phase.load(Ordering::Relaxed) == IDLE {
            self.enter(HEADERS);
        }
    }

    fn track_write<T>(&self, outcome: Poll<T>) -> Poll<T> {
        let blocked = self.blocked_since.load(Ordering::Relaxed) != NOT_BLOCKED;
        if outcome.is_pending() != blocked {
            self.blocked_since.store(if blocked { NOT_BLOCKED } else { self.now() }, Ordering::Relaxed);
        }
        outcome
    }

    /// The timeout of the current phase, and when it expires.
    fn next_expiry(&self, limits: &ServerLimits) -> (Instant, Expired) {
        let at = |since: u64, allowed: Duration| self.opened + Duration::from_millis(since) + allowed;
        let blocked = self.blocked_since.load(Ordering::Relaxed);
        if blocked != NOT_BLOCKED {
            return (at(blocked, limits.write_stall_timeout), Expired::SlowClient);
        }
        let since = self.phase_since.load(Ordering::Relaxed);
        match self.phase.load(Ordering::Relaxed) {
            HEADERS => (at(since, limits.header_read_timeout), Expired::SlowClient),
            IDLE => (at(since, limits.idle_timeout), Expired::Idle),
            // Request bodies and handlers have their own timeouts.
            _ => (self.opened + Duration::from_millis(self.now()) + limits.idle_timeout, Expired::None),
        }
    }

    /// Ready when the timeout of the current phase has expired.
    pub(super) fn poll_expired(
        &self,
        mut sleep: Pin<&mut Sleep>,
        limits: &ServerLimits,
        cx: &mut Context<'_>,
    ) -> Poll<Expired> {
        loop {
            let (at, expired) = self.next_expiry(limits);
            // A later expiry needs no reset now: the sleep ends at the old time and is set again then. So it is not set
            // for every request.
            if at < sleep.deadline().into_std() {
                sleep.as_mut().reset(at.into());
            }
            ready!(sleep.as_mut().poll(cx));
            if expired != Expired::None && Instant::now() >= at {
                return Poll::Ready(expired);
            }
            sleep.as_mut().reset(at.into());
        }
    }
}

/// A socket that reports its reads and writes to a [`ConnectionTimer`].
pub(super) struct TimedStream {
    stream: TcpStream,
    timer: Arc<ConnectionTimer>,
    linger: Option<(Pin<Box<Sleep>>, usize)>,
}

impl TimedStream {
    pub(super) fn new(stream: TcpStream, timer: Arc<ConnectionTimer>) -> Self {
        Self { stream, timer, linger: None }
    }

    /// Reads and discards what still arrives, until the client closes or a limit of the lingering close is reached.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (sleep, left) =
            self.linger.get_or_insert_with(|| (Box::pin(tokio::time::sleep(LINGER_TIME)), LINGER_BYTES));
        let mut scratch = [0_u8; 16 * 1024];
        loop {
            if sleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() && buffer.filled().len() <= *left => {
                    *left -= buffer.filled().len()
                }
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.timer.bytes_read();
        }
        outcome
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.timer.track_write(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.timer.track_write(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if self.timer.linger.load(Ordering::Relaxed) {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

/// A response body. The connection is idle once it is dropped.
pub(super) struct TimedBody {
    inner: axum::body::Body,
    timer: Arc<ConnectionTimer>,
}

impl TimedBody {
    pub(super) fn new(inner: axum::body::Body, timer: Arc<ConnectionTimer>) -> Self {
        Self { inner, timer }
    }
}

impl Drop for TimedBody {
    fn drop(&mut self) {
        self.timer.enter(IDLE);
    }
}

impl Body for TimedBody {
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
