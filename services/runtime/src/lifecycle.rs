//! Shutdown on signals, and supervision of tasks that run and stop together.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::health::Health;

/// Exit code after a second signal; shells use it for an interrupt.
const INTERRUPTED: i32 = 130;
/// How long aborted tasks may take to stop.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns a token that is cancelled `grace` after SIGINT or SIGTERM. At the signal, `health` reports that the process
/// is draining, so that it gets no new work; everything runs as before until the token is cancelled. Deadlines count
/// from the cancellation. A second signal exits the process at once. Call it inside the runtime.
pub fn shutdown_on_signals(health: Health, grace: Duration) -> CancellationToken {
    let token = CancellationToken::new();
    match signals() {
        Ok(signals) => drop(tokio::spawn(drain_then_cancel(signals, health, grace, token.clone()))),
        Err(error) => tracing::error!(%error, "Installing signal handlers failed; the process can only be killed."),
    }
    token
}

async fn drain_then_cancel(
    (mut interrupt, mut terminate): (Signal, Signal),
    health: Health,
    grace: Duration,
    token: CancellationToken,
) {
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    };
    let signal = next().await;
    health.set_draining();
    let grace_ms = grace.as_millis() as u64;
    tracing::info!(signal, grace_ms, "Received a signal; draining, then shutting down. A second signal exits at once.");
    tokio::select! {
        biased;
        signal = next() => exit_now(signal),
        // A task failed, and the supervisor shuts down without the grace period.
        () = token.cancelled() => {}
        () = sleep(grace) => tracing::info!("Shutting down."),
    }
    token.cancel();
    exit_now(next().await);
}

fn exit_now(signal: &str) {
    tracing::warn!(signal, "Received a second signal; exiting at once.");
    std::process::exit(INTERRUPTED);
}

/// Exits the process `within` after `shutdown`, even if a task or a thread of the runtime hangs. The next start repeats
/// unfinished work. It uses its own thread, because the threads of the runtime may hang. `sleep` uses the monotonic
/// clock; librdkafka's waits do not.
pub fn exit_within(shutdown: CancellationToken, within: Duration) {
    tokio::spawn(async move {
        shutdown.cancelled().await;
        std::thread::spawn(move || {
            std::thread::sleep(within);
            tracing::error!("Shutdown did not finish in time; exiting at once.");
            std::process::exit(1);
        });
    });
}

fn signals() -> io::Result<(Signal, Signal)> {
    Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
}

/// Runs named tasks, and shuts all of them down when one stops. Each task has the shutdown token and stops soon after
/// the token is cancelled. Every background task of a role is spawned here.
pub struct Supervisor {
    tasks: JoinSet<anyhow::Result<()>>,
    started: HashMap<Id, (String, AbortHandle)>,
    health: Health,
    shutdown: CancellationToken,
}

impl Supervisor {
    /// A supervisor without tasks. `shutdown` stops all tasks; a task that stops before is reported to `health`.
    pub fn new(health: Health, shutdown: CancellationToken) -> Self {
        Self { tasks: JoinSet::new(), started: HashMap::new(), health, shutdown }
    }

    /// The health of the process, for tasks that report their own.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The token that stops every task.
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a task.
    pub fn spawn<F>(&mut self, name: impl Into<String>, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let handle = self.tasks.spawn(task);
        self.started.insert(handle.id(), (name.into(), handle));
    }

    /// Abort handles of the tasks by name, for tests that kill a task.
    pub fn tasks(&self) -> BTreeMap<String, AbortHandle> {
        self.started.values().cloned().collect()
    }

    /// Runs until the shutdown, then waits at most `deadline` for all tasks to stop. A task that stops before the
    /// shutdown is reported as an unhealthy component under its name, and the other tasks are shut down.
    ///
    /// # Errors
    /// The name of the first task that failed, panicked, stopped before the shutdown or missed the deadline.
    pub async fn run(mut self, deadline: Duration) -> anyhow::Result<()> {
        let shutdown = self.shutdown.clone();
        let mut first_failure = None;
        loop {
            let ended = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                ended = self.tasks.join_next_with_id() => ended,
            };
            let Some(ended) = ended else {
                shutdown.cancelled().await;
                break;
            };
            let (name, outcome) = self.name_outcome(ended);
            // A task may see the cancelled token before this loop does. Then it stopped as it should.
            let is_unexpected = !shutdown.is_cancelled();
            let failure = match outcome {
                Ok(()) if !is_unexpected => continue,
                Ok(()) => anyhow!("{name} stopped unexpectedly"),
                Err(error) => error.context(format!("{name} failed")),
            };
            tracing::error!(task = name, error = format!("{failure:#}"), "Task stopped; shutting down.");
            self.health.component(&name).report_unhealthy(format!("{failure:#}"));
            first_failure = Some(failure);
            shutdown.cancel();
            break;
        }
        let drained = self.drain(deadline).await;
        first_failure.map_or(drained, Err)
    }

    async fn drain(mut self, deadline: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + deadline;
        let mut first_failure = Ok(());
        loop {
            let Ok(ended) = timeout_at(until, self.tasks.join_next_with_id()).await else {
                let mut late: Vec<String> = self.started.drain().map(|(_, (name, _))| name).collect();
                late.sort();
                let late = late.join(", ");
                let deadline_ms = deadline.as_millis() as u64;
                tracing::error!(
                    tasks = late,
                    deadline_ms,
                    "Tasks still running at the shutdown deadline; aborting them."
                );
                // A task that blocks its thread cannot be aborted; it is not waited for any longer.
                let _aborted = timeout(ABORT_TIMEOUT, self.tasks.shutdown()).await;
                return first_failure.and(Err(anyhow!("still running at the shutdown deadline: {late}")));
            };
            let Some(ended) = ended else { return first_failure };
            let (name, outcome) = self.name_outcome(ended);
            if let Err(error) = &outcome {
                tracing::error!(task = name, error = format!("{error:#}"), "Task failed during the shutdown.");
            }
            first_failure = first_failure.and(outcome.with_context(|| format!("{name} failed during the shutdown")));
        }
    }

    fn name_outcome(&mut self, ended: Result<(Id, anyhow::Result<()>), JoinError>) -> (String, anyhow::Result<()>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => (error.id(), Err(anyhow!(error))),
        };
        (self.started.remove(&id).map_or_else(|| "a task".to_owned(), |(name, _)| name), outcome)
    }
}
