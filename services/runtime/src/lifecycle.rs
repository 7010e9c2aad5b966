//! The beginning of the end: signals, and tasks that live and stop together.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::health::Health;

/// Exit code of a process that a second signal ended, as shells report an interrupt.
const INTERRUPTED: i32 = 130;
/// How long tasks that are cut off may take to notice.
const CUT_OFF: Duration = Duration::from_secs(1);

/// A token that SIGINT or SIGTERM cancels, `grace` after the signal. With the signal `health` reports that the process
/// is draining, so that no new work is sent to it; until the token is cancelled, everything goes on as before. Deadlines
/// count from the token. A second signal ends the process at once. Call it inside the runtime.
pub fn shutdown_on_signals(health: Health, grace: Duration) -> CancellationToken {
    let token = CancellationToken::new();
    match signals() {
        Ok(signals) => drop(tokio::spawn(drain_then_cancel(signals, health, grace, token.clone()))),
        Err(error) => tracing::error!(%error, "Signals cannot be received; the process can only be killed."),
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
    tracing::info!(signal, grace_ms, "Draining, then shutting down; a second signal ends the process at once.");
    tokio::select! {
        biased;
        signal = next() => end_at_once(signal),
        // A task that failed leaves nothing to wait for.
        () = token.cancelled() => {}
        () = sleep(grace) => tracing::info!("Shutting down."),
    }
    token.cancel();
    end_at_once(next().await);
}

fn end_at_once(signal: &str) {
    tracing::warn!(signal, "Ending at once.");
    std::process::exit(INTERRUPTED);
}

/// Ends the process `within` after `shutdown` at the latest, whatever hangs: what it did not get done then, who starts
/// next does again. On a thread, since the runtime's may be what hangs. Sleeping goes by the monotonic clock, other
/// than waiting inside of librdkafka.
pub fn exit_within(shutdown: CancellationToken, within: Duration) {
    tokio::spawn(async move {
        shutdown.cancelled().await;
        std::thread::spawn(move || {
            std::thread::sleep(within);
            tracing::error!("The process did not come to its end; ending it at once.");
            std::process::exit(1);
        });
    });
}

fn signals() -> io::Result<(Signal, Signal)> {
    Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
}

/// Named tasks of which none may end before the others. Each of them has the shutdown token and ends soon after it is
/// cancelled. Every task that a role keeps running in the background is one of them: what a slice needs, its `start`
/// registers here.
pub struct Supervisor {
    tasks: JoinSet<anyhow::Result<()>>,
    started: HashMap<Id, (String, AbortHandle)>,
    health: Health,
    shutdown: CancellationToken,
}

impl Supervisor {
    /// Without tasks. `shutdown` ends them all; a task that ends on its own is reported to `health`.
    pub fn new(health: Health, shutdown: CancellationToken) -> Self {
        Self { tasks: JoinSet::new(), started: HashMap::new(), health, shutdown }
    }

    /// The health of the process, for tasks that report their own.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The token that ends every task.
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

    /// The tasks by name, each with what cuts it off: for tests that kill one and see what becomes of the process.
    pub fn tasks(&self) -> BTreeMap<String, AbortHandle> {
        self.started.values().cloned().collect()
    }

    /// Runs until the shutdown, then waits for every task, `deadline` in all. A task that ends on its own is unhealthy
    /// under its name, and shuts the others down.
    ///
    /// # Errors
    /// The first task that failed, panicked, ended on its own or had not ended by the deadline, by name.
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
            // A task may notice the shutdown before this loop does; then it did what it should.
            let by_itself = !shutdown.is_cancelled();
            let failure = match outcome {
                Ok(()) if !by_itself => continue,
                Ok(()) => anyhow!("{name} ended on its own"),
                Err(error) => error.context(format!("{name} failed")),
            };
            tracing::error!(task = name, error = format!("{failure:#}"), "A task ended; shutting down.");
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
                tracing::error!(tasks = late, "Tasks had not ended by the deadline; they are cut off.");
                // A task that is stuck in a call rather than waiting cannot be cut off, and is left.
                let _cut_off = timeout(CUT_OFF, self.tasks.shutdown()).await;
                return first_failure.and(Err(anyhow!("not ended by the deadline: {late}")));
            };
            let Some(ended) = ended else { return first_failure };
            let (name, outcome) = self.name_outcome(ended);
            if let Err(error) = &outcome {
                tracing::error!(task = name, error = format!("{error:#}"), "A task failed while shutting down.");
            }
            first_failure = first_failure.and(outcome.with_context(|| format!("{name} failed while shutting down")));
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
