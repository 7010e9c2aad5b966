//! Timeouts of one connection: for headers, for idle time, and for clients that do not read or read too slowly.
//!
//! hyper's own header timeout also runs while a connection is idle. It would close pooled connections after seconds,
//! sometimes while the client is sending a request. So this file tracks the phases, and hyper's timeout is off.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::server_limits::ServerLimits;

const HEADERS: u8 = 0;
const REQUEST: u8 = 1;
const IDLE: u8 = 2;
/// The value of a time that is not set.
const NEVER: u64 = u64::MAX;

/// The phase of a connection and the time it started. The fields are atomic because the connection's task may move
/// between threads, and because requests of HTTP/2 are tasks of their own.
pub(super) struct ConnectionTimer {
    opened: Instant,
    phase: AtomicU8,
    /// When the phase started, milliseconds since `opened`.
    phase_since: AtomicU64,
    /// Since when writes are blocked because the client does not read, milliseconds since `opened`.
    blocked_since: AtomicU64,
    linger: AtomicBool,
    /// Requests that are not answered completely; several only with HTTP/2.
    open_requests: AtomicUsize,
    is_http2: bool,
    had_valid_key: AtomicBool,
    /// Until when the client must have read each large response, milliseconds since `opened`.
    response_deadlines: Mutex<Vec<u64>>,
    /// The earliest of them.
    first_deadline: AtomicU64,
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
    pub(super) fn new(is_http2: bool) -> Self {
        Self {
            opened: Instant::now(),
            phase: AtomicU8::new(HEADERS),
            phase_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(NEVER),
            linger: AtomicBool::new(false),
            open_requests: AtomicUsize::new(0),
            is_http2,
            had_valid_key: AtomicBool::new(false),
            response_deadlines: Mutex::default(),
            first_deadline: AtomicU64::new(NEVER),
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
    pub(super) fn request_started(self: &Arc<Self>) -> OpenRequest {
        self.open_requests.fetch_add(1, Ordering::Relaxed);
        self.enter(REQUEST);
        self.linger.store(false, Ordering::Relaxed);
        OpenRequest(self.clone())
    }

    /// Called when a response is sent although the request's body has not been read completely.
    pub(super) fn linger_on_close(&self) {
        self.linger.store(true, Ordering::Relaxed);
    }

    /// Whether unread bytes are discarded when the connection closes.
    pub(super) fn lingers(&self) -> bool {
        self.linger.load(Ordering::Relaxed) && !self.is_http2
    }

    /// Called when a request had a valid key. The connection may be idle for longer from then on.
    pub(super) fn has_valid_key(&self) {
        self.had_valid_key.store(true, Ordering::Relaxed);
    }

    /// Called when bytes arrived. HTTP/2 also sends some between requests.
    pub(super) fn bytes_read(&self) {
        if !self.is_http2 && self.phase.load(Ordering::Relaxed) == IDLE {
            self.enter(HEADERS);
        }
    }

    /// Called after each write.
    pub(super) fn track_write<T>(&self, outcome: Poll<T>) -> Poll<T> {
        let blocked = self.blocked_since.load(Ordering::Relaxed) != NEVER;
        if outcome.is_pending() != blocked {
            self.blocked_since.store(if blocked { NEVER } else { self.now() }, Ordering::Relaxed);
        }
        outcome
    }

    /// Requires that a response of this size is read in time. The deadline ends when the guard is dropped.
    pub(super) fn response_started(self: &Arc<Self>, bytes: u64, limits: &ServerLimits) -> UnsentResponse {
        let at_least = Duration::from_secs(bytes / limits.min_response_bytes_per_second.max(1));
        let allowed = u64::try_from((limits.response_grace + at_least).as_millis()).unwrap_or(u64::MAX);
        let deadline = self.now().saturating_add(allowed);
        self.change_deadlines(|deadlines| deadlines.push(deadline));
        UnsentResponse { timer: self.clone(), deadline }
    }

    fn change_deadlines(&self, change: impl FnOnce(&mut Vec<u64>)) {
        let mut deadlines = self.response_deadlines.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut deadlines);
        self.first_deadline.store(deadlines.iter().copied().min().unwrap_or(NEVER), Ordering::Relaxed);
    }

    /// The timeout of the current phase, and when it expires.
    fn next_expiry(&self, limits: &ServerLimits, is_crowded: bool) -> (Instant, Expired) {
        let at = |since: u64, allowed: Duration| self.opened + Duration::from_millis(since) + allowed;
        let blocked = self.blocked_since.load(Ordering::Relaxed);
        let first_deadline = self.first_deadline.load(Ordering::Relaxed);
        let stalled = (blocked != NEVER).then(|| at(blocked, limits.write_stall_timeout));
        let too_slow = (first_deadline != NEVER).then(|| at(first_deadline, Duration::ZERO));
        if let Some(expiry) = stalled.into_iter().chain(too_slow).min() {
            return (expiry, Expired::SlowClient);
        }
        let since = self.phase_since.load(Ordering::Relaxed);
        match self.phase.load(Ordering::Relaxed) {
            HEADERS => (at(since, limits.header_read_timeout), Expired::SlowClient),
            IDLE if is_crowded => (at(since, limits.idle_timeout_when_crowded), Expired::Idle),
            IDLE if self.had_valid_key.load(Ordering::Relaxed) => (at(since, limits.idle_timeout), Expired::Idle),
            IDLE => (at(since, limits.idle_timeout_without_key.min(limits.idle_timeout)), Expired::Idle),
            // Request bodies and handlers have their own timeouts.
            _ => (at(self.now(), limits.idle_timeout), Expired::None),
        }
    }

    /// Ready when the timeout of the current phase has expired. `is_crowded`: whether places for connections run short.
    pub(super) fn poll_expired(
        &self,
        mut sleep: Pin<&mut Sleep>,
        limits: &ServerLimits,
        is_crowded: impl Fn() -> bool,
        cx: &mut Context<'_>,
    ) -> Poll<Expired> {
        loop {
            let (at, expired) = self.next_expiry(limits, is_crowded());
            // A later expiry needs no reset now: the sleep ends at the old time and is set again then. So it is not set
            // for every request.
            if at < sleep.deadline().into_std() {
                sleep.as_mut().reset(at.into());
            }
            ready!(sleep.as_mut().poll(cx));
            let now = Instant::now();
            if expired != Expired::None && now >= at {
                return Poll::Ready(expired);
            }
            // Looked at again before its end: places may run short, and a task of HTTP/2 may set a deadline.
            sleep.as_mut().reset(at.min(now + limits.header_read_timeout).into());
        }
    }
}

/// A request that is not answered completely.
pub(super) struct OpenRequest(Arc<ConnectionTimer>);

impl OpenRequest {
    /// The timer of its connection.
    pub(super) fn timer(&self) -> &Arc<ConnectionTimer> {
        &self.0
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        if self.0.open_requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.enter(IDLE);
        }
    }
}

/// A large response of which the client has not read everything.
pub(super) struct UnsentResponse {
    timer: Arc<ConnectionTimer>,
    deadline: u64,
}

impl Drop for UnsentResponse {
    fn drop(&mut self) {
        self.timer.change_deadlines(|deadlines| {
            if let Some(at) = deadlines.iter().position(|deadline| *deadline == self.deadline) {
                deadlines.swap_remove(at);
            }
        });
    }
}
