//! The beginning of the end: signals, and tasks that live and stop together.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// Exit code of a process that a second signal ended, as shells report an interrupt.
const INTERRUPTED: i32 = 130;
/// How long tasks that are cut off may take to notice.
const CUT_OFF: Duration = Duration::from_secs(1);

/// A token that SIGINT or SIGTERM cancels. A second signal ends the process at once. Call it inside the runtime.
pub fn shutdown_on_signals() -> CancellationToken {
    let token = CancellationToken::new();
    match signals() {
        Ok((mut interrupt, mut terminate)) => {
            let cancelled = token.clone();
            tokio::spawn(async move {
                let mut next = async || {
                    tokio::select! {
                        _ = interrupt.recv() => "SIGINT",
                        _ = terminate.recv() => "SIGTERM",
                    }
                };
                let name = next().await;
                tracing::info!(signal = name, "Shutting down; a second signal ends the process at once.");
                cancelled.cancel();
                let name = next().await;
                tracing::warn!(signal = name, "Ending at once.");
                std::process::exit(INTERRUPTED);
            });
        }
        Err(error) => tracing::error!(%error, "Signals cannot be received; the process can only be killed."),
    }
    token
}

/// Ends the process `within` after `shutdown` at the latest, whatever hangs: what it did not get done then, who starts
/// next does again. On a thread, since the runtime's may be what hangs. Sleeping goes by the monotonic clock, other
/// than waiting inside of librdkafka.
pub fn end_within(shutdown: CancellationToken, within: Duration) {
    tokio::spawn(async move {
        shutdown.cancelled().await;
        std::thread::spawn(move || {
            std::thread::sleep(within);
            tracing::error!("The process did not come to its end; ending it at once.");
            std::process::exit(1);
        });
    });
}

fn signals() -> io::Result<(tokio::signal::unix::Signal, tokio::signal::unix::Signal)> {
    Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
}

/// Named tasks of which none may end before the others. Each of them has the shutdown token and ends soon after it is
/// cancelled.
#[derive(Default)]
pub struct Supervisor {
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, String>,
}

impl Supervisor {
    /// Without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task.
    pub fn spawn<F>(&mut self, name: impl Into<String>, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name.into());
    }

    /// Runs until `shutdown`, then waits for every task, `deadline` in all. A task that ends on its own cancels
    /// `shutdown` for the others.
    ///
    /// # Errors
    /// The first task that failed, panicked, ended on its own or had not ended by the deadline, by name.
    pub async fn run(mut self, shutdown: CancellationToken, deadline: Duration) -> anyhow::Result<()> {
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
                let mut late: Vec<String> = self.names.drain().map(|(_, name)| name).collect();
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
        (self.names.remove(&id).unwrap_or_else(|| "a task".to_owned()), outcome)
    }
}
