//! How long the parts of a request took.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::attempt::connection::{Connection, Traffic};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Timings {
    /// Until the connection stood: look-up, TCP, TLS, and a sending on a connection that the receiver had closed. Zero
    /// on a reused connection.
    pub connect: Duration,
    /// Until the request was written.
    pub send: Duration,
    /// Until the head of the answer.
    pub wait: Duration,
}

/// Measures one request. It can be read at any time: a request that timed out has the parts until then.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    timings: Timings,
    since: Instant,
    /// The connection that has the request.
    sending: Option<Arc<Traffic>>,
    is_stopped: bool,
    /// The connection had served another request before.
    pub reused: bool,
    pub remote: Option<SocketAddr>,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self {
            timings: Timings::default(),
            since: Instant::now(),
            sending: None,
            is_stopped: false,
            reused: false,
            remote: None,
        }
    }

    /// What came before, such as the fetching of a token, or a request whose answer asks for another one, is in the
    /// latency only.
    pub(crate) fn restart(&mut self) {
        *self = Self::start();
    }

    /// The request goes to this connection, which was opened for it or was idle.
    pub(crate) fn send(&mut self, connection: &Connection) {
        self.reused = connection.served > 0;
        self.remote = Some(connection.remote);
        if !self.reused {
            self.timings.connect = self.since.elapsed();
        }
        self.since = Instant::now();
        self.sending = Some(connection.traffic.clone());
    }

    /// The connection was closed before the request came: another one is opened, and its time counts from the start.
    pub(crate) fn connect_again(&mut self) {
        self.sending = None;
        self.reused = false;
        self.remote = None;
    }

    /// The head of the answer is there, or the request has failed. Later calls change nothing.
    pub(crate) fn stop(&mut self) -> Timings {
        if std::mem::replace(&mut self.is_stopped, true) {
            return self.timings;
        }
        match &self.sending {
            None => self.timings.connect = self.since.elapsed(),
            Some(traffic) => {
                let elapsed = self.since.elapsed();
                let written = traffic.written_at().and_then(|at| at.checked_duration_since(self.since));
                self.timings.send = written.unwrap_or(elapsed).min(elapsed);
                self.timings.wait = elapsed - self.timings.send;
            }
        }
        self.timings
    }
}
