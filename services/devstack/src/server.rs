//! One supervised server: start, stop, signals, and a bounded number of restarts when it ends by itself.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::{Mutex, watch};

use crate::child::{self, Child};
use crate::kafka::Kafka;
use crate::postgres::Postgres;
use crate::{Error, ports};

/// How long a server may take until it answers. A broker killed with much data reads its logs first.
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// How long a server may take to end in order before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// How often a server that ends by itself is started again within `RESTART_WINDOW`.
const RESTARTS: usize = 5;
/// The time over which restarts are counted.
const RESTART_WINDOW: Duration = Duration::from_secs(600);
/// Before a restart that follows a failed one.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How long `Drop` waits for a killed server.
const DROP_DEADLINE: Duration = Duration::from_secs(3);

/// The two kinds of server, and what differs between them.
pub(crate) enum Program {
    Kafka(Kafka),
    Postgres(Postgres),
}

impl Program {
    fn name(&self) -> &'static str {
        match self {
            Self::Kafka(_) => "Kafka",
            Self::Postgres(_) => "PostgreSQL",
        }
    }

    fn port(&self) -> u16 {
        match self {
            Self::Kafka(kafka) => kafka.port(),
            Self::Postgres(postgres) => postgres.port(),
        }
    }

    /// Where its processes work, and what they are called.
    fn place(&self) -> (PathBuf, &'static str) {
        match self {
            Self::Kafka(kafka) => (kafka.folder().to_path_buf(), "java"),
            Self::Postgres(postgres) => (postgres.data(), "postgres"),
        }
    }

    fn spawn(&self) -> Result<Child, Error> {
        match self {
            Self::Kafka(kafka) => kafka.spawn(),
            Self::Postgres(postgres) => postgres.spawn(),
        }
    }

    async fn ready(&self) -> Result<(), Error> {
        match self {
            Self::Kafka(kafka) => kafka.ready().await,
            Self::Postgres(postgres) => postgres.ready().await,
        }
    }

    fn last_words(&self) -> String {
        match self {
            Self::Kafka(kafka) => kafka.last_words(),
            Self::Postgres(postgres) => postgres.last_words(),
        }
    }

    /// Asks for an end in order that does not wait for clients.
    fn stop_signal(&self) -> Signal {
        match self {
            Self::Kafka(_) => Signal::TERM,
            Self::Postgres(_) => Signal::INT,
        }
    }

    /// Ends it at once. PostgreSQL is given the chance to take its backends along.
    fn abort_signal(&self) -> Signal {
        match self {
            Self::Kafka(_) => Signal::KILL,
            Self::Postgres(_) => Signal::QUIT,
        }
    }
}

/// A server, to be ended and started again on its port and data. In a `Stack` it is started again when it ends by
/// itself.
pub struct Server {
    pub(crate) program: Program,
    /// Whether it is to run. Held over a whole start or stop, so that these do not overlap.
    wanted: Mutex<bool>,
    child: watch::Sender<Option<Arc<Child>>>,
    failure: watch::Sender<Option<String>>,
}

impl Server {
    pub(crate) fn new(program: Program) -> Self {
        Self { program, wanted: Mutex::new(false), child: watch::Sender::new(None), failure: watch::Sender::new(None) }
    }

    /// Starts it and returns when it answers; nothing to do if it runs.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(&self) -> Result<(), Error> {
        let mut wanted = self.wanted.lock().await;
        match self.running() {
            Some(_) if *wanted => return Ok(()),
            // Left by a start that was given up before it answered.
            Some(child) => child.stop(Signal::KILL, STOP_GRACE).await,
            None => {}
        }
        self.launch().await?;
        *wanted = true;
        Ok(())
    }

    async fn launch(&self) -> Result<(), Error> {
        let (folder, name) = self.program.place();
        child::end_leftovers(&folder, name).await?;
        ports::ensure_free(self.program.name(), self.program.port())?;
        let begun = Instant::now();
        let child = Arc::new(self.program.spawn()?);
        self.child.send_replace(Some(Arc::clone(&child)));
        let result = tokio::select! {
            ready = tokio::time::timeout(READY_DEADLINE, self.program.ready()) => match ready {
                Ok(ready) => ready,
                Err(_) => Err(Error::NotReady {
                    server: self.program.name(),
                    seconds: READY_DEADLINE.as_secs(),
                    log: self.program.last_words(),
                }),
            },
            status = child.wait() => Err(Error::Exited {
                server: self.program.name(),
                status: status.map_or_else(|| "unknown status".into(), |status| status.to_string()),
                log: self.program.last_words(),
            }),
        };
        if result.is_err() {
            child.stop(Signal::KILL, STOP_GRACE).await;
        } else {
            let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(
                port = self.program.port(),
                pid = child.pid(),
                milliseconds,
                "{} is ready",
                self.program.name()
            );
        }
        result
    }

    /// Ends it in order, and kills it if it takes too long. It stays down until `start`.
    pub async fn stop(&self) {
        self.stop_with(self.program.stop_signal()).await;
    }

    /// Ends it at once by its own means: PostgreSQL's immediate shutdown, which recovers at the next start; Kafka has
    /// none and is killed. It stays down until `start`.
    pub async fn stop_at_once(&self) {
        self.stop_with(self.program.abort_signal()).await;
    }

    /// Kills it, and its children, as a crash would. It stays down until `start`.
    pub async fn kill(&self) {
        self.stop_with(Signal::KILL).await;
    }

    async fn stop_with(&self, signal: Signal) {
        let mut wanted = self.wanted.lock().await;
        *wanted = false;
        let Some(child) = self.running() else { return };
        if signal == Signal::KILL {
            child.signal_family(signal);
        }
        child.stop(signal, STOP_GRACE).await;
    }

    /// Sends a signal. `STOP`, `CONT` and `KILL` reach its children too: a halted server answers nobody.
    pub fn signal(&self, signal: Signal) {
        let Some(child) = self.running() else { return };
        if [Signal::STOP, Signal::CONT, Signal::KILL].contains(&signal) {
            child.signal_family(signal);
        } else {
            child.signal(signal);
        }
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running().map(|child| child.pid())
    }

    fn running(&self) -> Option<Arc<Child>> {
        self.child.borrow().clone().filter(|child| child.exited().is_none())
    }

    /// Ends it at once, without a runtime.
    pub(crate) fn abort_blocking(&self) {
        if let Some(child) = self.running() {
            child.end_blocking(self.program.abort_signal(), DROP_DEADLINE);
        }
    }

    /// Starts it again when it ends by itself; returns when that has happened too often.
    pub(crate) async fn supervise(self: Arc<Self>) {
        let mut children = self.child.subscribe();
        let mut restarts: VecDeque<Instant> = VecDeque::new();
        loop {
            let Some(child) = children.borrow_and_update().clone() else {
                if children.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let status = child.wait().await;
            let wanted = self.wanted.lock().await;
            if !*wanted || self.running().is_some() {
                drop(wanted);
                if children.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let status = status.map_or_else(|| "unknown status".into(), |status| status.to_string());
            if let Err(reason) = self.restart(&mut restarts, status).await {
                self.failure.send_replace(Some(reason));
                return;
            }
        }
    }

    /// Tries until it answers again or the restarts are used up. The caller holds `wanted`.
    async fn restart(&self, restarts: &mut VecDeque<Instant>, status: String) -> Result<(), String> {
        let name = self.program.name();
        let mut reason = format!("{name} ended by itself ({status}); its last words: {}", self.program.last_words());
        loop {
            restarts.retain(|at| at.elapsed() < RESTART_WINDOW);
            if restarts.len() >= RESTARTS {
                let minutes = RESTART_WINDOW.as_secs() / 60;
                return Err(format!("{name} was started again {RESTARTS} times within {minutes} minutes: {reason}"));
            }
            restarts.push_back(Instant::now());
            tracing::warn!(restart = restarts.len(), of = RESTARTS, "starting {name} again: {reason}");
            match self.launch().await {
                Ok(()) => return Ok(()),
                Err(error) => reason = error.to_string(),
            }
            tokio::time::sleep(RESTART_PAUSE).await;
        }
    }

    /// Waits until it has been given up, and tells why.
    pub(crate) async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }
}
