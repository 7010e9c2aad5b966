//! One server: start, stop, signals, and a bounded number of restarts when it exits unexpectedly.

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

/// How long a server may take until it answers. A broker that was killed recovers its logs first.
const READY_DEADLINE: Duration = Duration::from_secs(120);
/// How long a graceful stop may take before the server is killed.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// Restarts of a server that exits unexpectedly, within `RESTART_WINDOW`.
const RESTARTS: usize = 5;
const RESTART_WINDOW: Duration = Duration::from_secs(600);
/// Pause after a failed restart.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How long `Drop` waits for a killed server.
const DROP_DEADLINE: Duration = Duration::from_secs(3);

/// The two kinds of server.
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

    /// The working directory and the name of its processes.
    fn process_identity(&self) -> (PathBuf, &'static str) {
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

    fn log_tail(&self) -> String {
        match self {
            Self::Kafka(kafka) => kafka.log_tail(),
            Self::Postgres(postgres) => postgres.log_tail(),
        }
    }

    /// Stops the server gracefully, without waiting for clients.
    fn stop_signal(&self) -> Signal {
        match self {
            Self::Kafka(_) => Signal::TERM,
            Self::Postgres(_) => Signal::INT,
        }
    }

    /// Stops the server immediately. PostgreSQL stops its backends as well.
    fn abort_signal(&self) -> Signal {
        match self {
            Self::Kafka(_) => Signal::KILL,
            Self::Postgres(_) => Signal::QUIT,
        }
    }
}

/// A server that can be stopped and started on the same port and data. In a `Stack` it is restarted when it exits
/// unexpectedly.
pub struct Server {
    pub(crate) program: Program,
    /// Whether it should run. Locked during a whole start or stop, so that these do not overlap.
    wanted: Mutex<bool>,
    child: watch::Sender<Option<Arc<Child>>>,
    failure: watch::Sender<Option<String>>,
}

impl Server {
    pub(crate) fn new(program: Program) -> Self {
        Self { program, wanted: Mutex::new(false), child: watch::Sender::new(None), failure: watch::Sender::new(None) }
    }

    /// Starts it, and returns when it answers. Does nothing if it runs.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(&self) -> Result<(), Error> {
        let mut wanted = self.wanted.lock().await;
        match self.running() {
            Some(_) if *wanted => return Ok(()),
            // Left by a start that was cancelled before the server answered.
            Some(child) => child.stop(Signal::KILL, STOP_GRACE).await,
            None => {}
        }
        self.launch().await?;
        *wanted = true;
        Ok(())
    }

    async fn launch(&self) -> Result<(), Error> {
        let (folder, name) = self.program.process_identity();
        child::stop_leftovers(&folder, name).await?;
        ports::ensure_free(self.program.name(), self.program.port())?;
        let started = Instant::now();
        let child = Arc::new(self.program.spawn()?);
        self.child.send_replace(Some(Arc::clone(&child)));
        let result = tokio::select! {
            ready = tokio::time::timeout(READY_DEADLINE, self.program.ready()) => match ready {
                Ok(ready) => ready,
                Err(_) => Err(Error::NotReady {
                    server: self.program.name(),
                    seconds: READY_DEADLINE.as_secs(),
                    log: self.program.log_tail(),
                }),
            },
            status = child.wait() => Err(Error::Exited {
                server: self.program.name(),
                status: status.map_or_else(|| "unknown status".into(), |status| status.to_string()),
                log: self.program.log_tail(),
            }),
        };
        if result.is_err() {
            child.stop(Signal::KILL, STOP_GRACE).await;
        } else {
            let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
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

    /// Stops it gracefully, and kills it if it takes too long. It stays down until `start`.
    pub async fn stop(&self) {
        self.stop_with(self.program.stop_signal()).await;
    }

    /// Stops PostgreSQL with an immediate shutdown, so that it recovers at the next start; kills Kafka, which has no
    /// such shutdown. It stays down until `start`.
    pub async fn stop_immediately(&self) {
        self.stop_with(self.program.abort_signal()).await;
    }

    /// Kills it and its children. It stays down until `start`.
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

    /// Sends a signal. `STOP`, `CONT` and `KILL` are also sent to its children, so that a halted server does not
    /// answer.
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

    /// Stops it immediately, without a runtime.
    pub(crate) fn abort_blocking(&self) {
        if let Some(child) = self.running() {
            child.stop_blocking(self.program.abort_signal(), DROP_DEADLINE);
        }
    }

    /// Restarts it when it exits unexpectedly; returns after too many restarts.
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

    /// Restarts it until it answers or the restarts are used up. The caller holds `wanted`.
    async fn restart(&self, restarts: &mut VecDeque<Instant>, status: String) -> Result<(), String> {
        let name = self.program.name();
        let mut reason = format!("{name} exited unexpectedly ({status}); end of its log: {}", self.program.log_tail());
        loop {
            restarts.retain(|at| at.elapsed() < RESTART_WINDOW);
            if restarts.len() >= RESTARTS {
                let minutes = RESTART_WINDOW.as_secs() / 60;
                return Err(format!("{name} was restarted {RESTARTS} times within {minutes} minutes: {reason}"));
            }
            restarts.push_back(Instant::now());
            tracing::warn!(restart = restarts.len(), of = RESTARTS, "{reason}; restarting {name}");
            match self.launch().await {
                Ok(()) => return Ok(()),
                Err(error) => reason = error.to_string(),
            }
            tokio::time::sleep(RESTART_PAUSE).await;
        }
    }

    /// Waits until it is not restarted any more, and returns why.
    pub(crate) async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }
}
