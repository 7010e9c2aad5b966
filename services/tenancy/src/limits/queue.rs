//! The scopes that need a lease, and the state that all scopes of a process share.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use uuid::Uuid;

use super::scope::Scope;
use super::settings::LimitSettings;
use super::tokens::Source;
use super::window::WindowShape;

/// How long a request waits for a lease at most. The leasing task answers before, with the local window if need be.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// Each scope is in the queue once at most; this many may be. A scope that does not fit asks again.
const MAX_QUEUED: usize = 100_000;

/// Between requests and the leasing task.
#[derive(Debug)]
pub(crate) struct LeaseQueue {
    /// Names this process in the table of instances.
    pub(super) instance: Uuid,
    pub(super) settings: LimitSettings,
    pub(super) shape: WindowShape,
    started: Instant,
    queued: Mutex<Vec<Arc<Scope>>>,
    pushed: Notify,
    is_local: AtomicBool,
    instances: AtomicU32,
}

impl LeaseQueue {
    pub(crate) fn new(settings: LimitSettings) -> Self {
        Self {
            instance: Uuid::now_v7(),
            settings,
            shape: settings.shape(),
            started: Instant::now(),
            queued: Mutex::default(),
            pushed: Notify::new(),
            is_local: AtomicBool::new(false),
            instances: AtomicU32::new(1),
        }
    }

    /// Milliseconds since the start of this process.
    pub(super) fn now_ms(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    pub(super) fn source(&self) -> Source {
        if self.is_local.load(Ordering::SeqCst) {
            Source::Local { instances: self.instances.load(Ordering::Relaxed) }
        } else {
            Source::Shared
        }
    }

    /// Whether requests are decided by local windows.
    pub(super) fn set_local(&self, is_local: bool) {
        self.is_local.store(is_local, Ordering::SeqCst);
    }

    pub(super) fn set_instances(&self, instances: u32) {
        self.instances.store(instances.max(1), Ordering::Relaxed);
    }

    pub(super) fn instances(&self) -> u32 {
        self.instances.load(Ordering::Relaxed)
    }

    pub(super) const fn longest_wait(&self) -> Duration {
        LONGEST_WAIT
    }

    /// `false`: the queue is full.
    pub(super) fn push(&self, scope: Arc<Scope>) -> bool {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        if queued.len() >= MAX_QUEUED {
            return false;
        }
        queued.push(scope);
        drop(queued);
        self.pushed.notify_one();
        true
    }

    /// Waits until a scope is queued.
    pub(super) async fn wait(&self) {
        self.pushed.notified().await;
    }

    /// At most `max` scopes; the others stay and wake the task again.
    pub(super) fn drain(&self, max: usize) -> Vec<Arc<Scope>> {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        let count = queued.len().min(max);
        let taken = queued.drain(..count).collect();
        if !queued.is_empty() {
            self.pushed.notify_one();
        }
        taken
    }
}
