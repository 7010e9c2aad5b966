//! A background task that runs only while a caller needs it: the first caller starts it, it stops when no caller needs
//! it any longer, and it is restarted when it panics.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;

/// Pause before a task that panicked is restarted.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// Runs at most one task at a time.
pub struct OnDemand {
    name: &'static str,
    is_running: Arc<Mutex<bool>>,
}

impl OnDemand {
    /// A task that is not running yet. `name` is logged.
    pub fn new(name: &'static str) -> Self {
        Self { name, is_running: Arc::default() }
    }

    /// Starts the task unless it is running. The task repeats `step` while `is_needed`. Call it inside a runtime, and
    /// only after `is_needed` has become true: then either the running task sees that, or this starts a new task.
    pub fn ensure_running<F>(
        &self,
        is_needed: impl Fn() -> bool + Send + Sync + 'static,
        step: impl Fn() -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        if !std::mem::replace(&mut *lock(&self.is_running), true) {
            tokio::spawn(run(self.name, self.is_running.clone(), is_needed, step));
        }
    }

    /// Whether the task is running.
    pub fn is_running(&self) -> bool {
        *lock(&self.is_running)
    }
}

async fn run<F>(
    name: &'static str,
    is_running: Arc<Mutex<bool>>,
    is_needed: impl Fn() -> bool + Sync,
    step: impl Fn() -> F + Sync,
) where
    F: Future<Output = ()> + Send,
{
    // Checked under the lock: a caller that needs the task from now on is either seen here, or finds the task stopped
    // and starts a new one.
    let is_still_needed = || {
        let mut is_running = lock(&is_running);
        *is_running = is_needed();
        *is_running
    };
    while is_still_needed() {
        if AssertUnwindSafe(async { step().await }).catch_unwind().await.is_err() {
            tracing::error!(task = name, "Background task panicked; restarting it.");
            tokio::time::sleep(RESTART_PAUSE).await;
        }
    }
}

fn lock(is_running: &Mutex<bool>) -> MutexGuard<'_, bool> {
    is_running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::watch;

    use super::*;

    /// A task that publishes how often it ran, while there are listeners. Its first step panics.
    struct Counter {
        task: OnDemand,
        steps: Arc<AtomicUsize>,
        published: Arc<watch::Sender<usize>>,
    }

    impl Counter {
        fn new() -> Self {
            let published = Arc::new(watch::Sender::new(0));
            Self { task: OnDemand::new("counter"), steps: Arc::default(), published }
        }

        fn listen(&self) -> watch::Receiver<usize> {
            let (listener, needed) = (self.published.subscribe(), self.published.clone());
            let (published, steps) = (self.published.clone(), self.steps.clone());
            let step = move || {
                let step = steps.fetch_add(1, Ordering::Relaxed) + 1;
                assert!(step > 1, "the first step fails");
                published.send_replace(step);
                tokio::time::sleep(Duration::from_millis(1))
            };
            self.task.ensure_running(move || needed.receiver_count() > 0, step);
            listener
        }
    }

    #[tokio::test]
    async fn a_task_that_panicked_is_restarted() {
        let counter = Counter::new();
        let mut listener = counter.listen();
        let served = tokio::time::timeout(Duration::from_secs(10), listener.wait_for(|step| *step >= 3)).await;
        assert!(served.is_ok(), "a listener from before the panic is served after it");
    }

    #[tokio::test]
    async fn it_stops_without_listeners_and_starts_again() {
        let counter = Counter::new();
        let mut listeners = [counter.listen(), counter.listen()];
        listeners[1].wait_for(|step| *step >= 2).await.unwrap();
        assert!(counter.task.is_running());
        drop(listeners);
        while counter.task.is_running() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let steps = counter.steps.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(counter.steps.load(Ordering::Relaxed), steps, "no step runs without listeners");
        counter.listen().wait_for(|step| *step > steps).await.unwrap();
    }
}
