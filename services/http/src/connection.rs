//! One connection: the socket as hyper sees it, and how long it may stay in each phase of its life.
//!
//! hyper's own timer for headers also runs while a connection is idle, which would close pooled connections after
//! seconds and now and then under a client's hands. So the phases are followed here, and hyper's timer is off.

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

use super::server::ServerLimits;

/// How long unread bytes are still taken after the last answer, so that the client gets to read it before the
/// connection is reset.
const LINGER: Duration = Duration::from_secs(1);
/// How many of them at most.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

const HEADERS: u8 = 0;
const REQUEST: u8 = 1;
const IDLE: u8 = 2;
const NOT_BLOCKED: u64 = u64::MAX;

/// Where a connection stands. Only its own task touches it; the atomics are for the compiler.
pub(super) struct Pace {
    opened: Instant,
    phase: AtomicU8,
    /// When the phase began, milliseconds since `opened`.
    since: AtomicU64,
    /// Since when the client has not taken what is written, likewise.
    blocked_since: AtomicU64,
    linger: AtomicBool,
}

/// What became due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    No,
    /// The connection was idle for long enough: it may be closed politely.
    Idle,
    /// The client is too slow: it is dropped.
    Slow,
}

impl Pace {
    /// A fresh connection owes headers from the start.
    pub(super) fn new() -> Self {
        Self {
            opened: Instant::now(),
            phase: AtomicU8::new(HEADERS),
            since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(NOT_BLOCKED),
            linger: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn enter(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
        self.since.store(self.now(), Ordering::Relaxed);
    }

    /// The headers are complete.
    pub(super) fn begin_request(&self) {
        self.enter(REQUEST);
        self.linger.store(false, Ordering::Relaxed);
    }

    /// The answer goes out although the request may not have been read to its end.
    pub(super) fn linger_at_the_end(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    fn bytes_read(&self) {
        if self.phase.load(Ordering::Relaxed) == IDLE {
            self.enter(HEADERS);
        }
    }

    fn wrote<T>(&self, outcome: Poll<T>) -> Poll<T> {
        let blocked = self.blocked_since.load(Ordering::Relaxed) != NOT_BLOCKED;
        if outcome.is_pending() != blocked {
            self.blocked_since.store(if blocked { NOT_BLOCKED } else { self.now() }, Ordering::Relaxed);
        }
        outcome
    }

    /// When something becomes due as things stand, and what.
    fn next_due(&self, limits: &ServerLimits) -> (Instant, Due) {
        let at = |since: u64, allowed: Duration| self.opened + Duration::from_millis(since) + allowed;
        let blocked = self.blocked_since.load(Ordering::Relaxed);
        if blocked != NOT_BLOCKED {
            return (at(blocked, limits.write_stall_timeout), Due::Slow);
        }
        let since = self.since.load(Ordering::Relaxed);
        match self.phase.load(Ordering::Relaxed) {
            HEADERS => (at(since, limits.header_read_timeout), Due::Slow),
            IDLE => (at(since, limits.idle_timeout), Due::Idle),
            // Bodies have a limit of their own, and handlers theirs.
            _ => (self.opened + Duration::from_millis(self.now()) + limits.idle_timeout, Due::No),
        }
    }

    /// Polls the timer so that it fires when something becomes due.
    pub(super) fn poll_due(
        &self,
        mut timer: Pin<&mut Sleep>,
        limits: &ServerLimits,
        cx: &mut Context<'_>,
    ) -> Poll<Due> {
        loop {
            let (at, due) = self.next_due(limits);
            // A later moment needs no new timer: the old one fires, and is then set again. That spares setting it for
            // each request.
            if at < timer.deadline().into_std() {
                timer.as_mut().reset(at.into());
            }
            ready!(timer.as_mut().poll(cx));
            if due != Due::No && Instant::now() >= at {
                return Poll::Ready(due);
            }
            timer.as_mut().reset(at.into());
        }
    }
}

/// A socket that tells the [`Pace`] what happens on it.
pub(super) struct PacedStream {
    stream: TcpStream,
    pace: Arc<Pace>,
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

impl PacedStream {
    pub(super) fn new(stream: TcpStream, pace: Arc<Pace>) -> Self {
        Self { stream, pace, lingering: None }
    }

    /// Takes and throws away what still comes, up to the end or the bounds.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (timer, left) = self.lingering.get_or_insert_with(|| (Box::pin(tokio::time::sleep(LINGER)), LINGER_BYTES));
        let mut scratch = [0_u8; 16 * 1024];
        loop {
            if timer.as_mut().poll(cx).is_ready() {
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

impl AsyncRead for PacedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.pace.bytes_read();
        }
        outcome
    }
}

impl AsyncWrite for PacedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.pace.wrote(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.pace.wrote(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if self.pace.linger.load(Ordering::Relaxed) {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

/// A response body whose end makes the connection idle.
pub(super) struct PacedBody {
    inner: axum::body::Body,
    pace: Arc<Pace>,
}

impl PacedBody {
    pub(super) fn new(inner: axum::body::Body, pace: Arc<Pace>) -> Self {
        Self { inner, pace }
    }
}

impl Drop for PacedBody {
    fn drop(&mut self) {
        self.pace.enter(IDLE);
    }
}

impl Body for PacedBody {
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
