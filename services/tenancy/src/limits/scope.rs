//! A scope of a limit: an organization, or a key that has a limit of its own. All requests of a scope in this process
//! share it.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::timeout;
use uuid::Uuid;

use super::queue::LeaseQueue;
use super::tokens::{Ask, Decision, Grant, LeaseId, Quota, Source, Tokens};
use super::window::{Window, WindowShape};

/// What a limit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScopeKind {
    Organization,
    Key,
}

impl ScopeKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Key => "key",
        }
    }

    /// As clients read it.
    pub(super) const fn noun(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Key => "API key",
        }
    }
}

/// Why tokens were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    Exceeded,
    /// No answer of the leasing task, which always gives one: it has stopped.
    Unanswered,
}

/// A scope. One short lock of its own per request: tokens, their ends and the memory of a refusal change together.
#[derive(Debug)]
pub(crate) struct Scope {
    pub id: Uuid,
    pub kind: ScopeKind,
    tokens: Mutex<Tokens>,
    /// Wakes waiting requests after a lease.
    changed: Notify,
}

impl Scope {
    /// `limit`: requests per window; never 0.
    pub(crate) fn new(id: Uuid, kind: ScopeKind, shape: WindowShape, limit: u32) -> Self {
        Self { id, kind, tokens: Mutex::new(Tokens::new(shape, limit)), changed: Notify::new() }
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_limit(&self, limit: u32) {
        self.tokens().set_limit(limit);
    }

    pub(crate) fn limit(&self) -> u32 {
        self.tokens().limit()
    }

    /// Takes `count` tokens, all or none. Waits for a lease when this instance has too few.
    pub(super) async fn take(self: &Arc<Self>, count: u32, queue: &LeaseQueue) -> Result<Option<LeaseId>, NotTaken> {
        if let Some(decided) = self.decide(count, queue) {
            return decided;
        }
        let _waiting = Waiting::new(self, count);
        let woken = async {
            loop {
                let mut changed = pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(decided) = self.decide(count, queue) {
                    return decided;
                }
                self.enqueue(queue);
                // The task may have emptied its queue and stopped leasing just before.
                if queue.source() == Source::Shared {
                    changed.await;
                }
            }
        };
        timeout(queue.longest_wait(), woken).await.unwrap_or(Err(NotTaken::Unanswered))
    }

    /// `None`: tokens must be leased first.
    fn decide(self: &Arc<Self>, count: u32, queue: &LeaseQueue) -> Option<Result<Option<LeaseId>, NotTaken>> {
        let now_ms = queue.now_ms();
        let source = queue.source();
        let mut tokens = self.tokens();
        match tokens.take(count, now_ms, source) {
            Decision::Taken(from) => {
                if tokens.needs_slice(now_ms) {
                    self.enqueue_locked(&mut tokens, queue);
                }
                Some(Ok(from))
            }
            Decision::Refused => Some(Err(NotTaken::Exceeded)),
            Decision::Wait => None,
        }
    }

    /// Asks the leasing task for tokens, or to give some back.
    pub(super) fn enqueue(self: &Arc<Self>, queue: &LeaseQueue) {
        self.enqueue_locked(&mut self.tokens(), queue);
    }

    fn enqueue_locked(self: &Arc<Self>, tokens: &mut Tokens, queue: &LeaseQueue) {
        if !tokens.is_queued && queue.push(Arc::clone(self)) {
            tokens.is_queued = true;
        }
    }

    pub(super) fn put_back(&self, count: u32, from: Option<LeaseId>) {
        if let Some(from) = from {
            self.tokens().put_back(count, from);
        }
    }

    pub(super) fn quota(&self, wanted: u32, queue: &LeaseQueue) -> Quota {
        self.tokens().quota(wanted, queue.now_ms(), queue.source())
    }

    pub(super) fn ask(&self, now_ms: i64) -> Ask {
        self.tokens().ask(now_ms)
    }

    /// Returns whether the leasing task must look after unspent tokens from now on.
    pub(super) fn granted(&self, grant: Grant, now_ms: i64) -> bool {
        let mut tokens = self.tokens();
        tokens.granted(grant, now_ms);
        let is_new = tokens.has_leases() && !tokens.is_outstanding;
        tokens.is_outstanding |= is_new;
        drop(tokens);
        self.changed.notify_waiters();
        is_new
    }

    pub(super) fn ask_failed(&self, unrecorded: Option<&Window>) {
        self.tokens().ask_failed(unrecorded);
        self.changed.notify_waiters();
    }

    /// Gives ended leases back. Returns whether some leases have not ended yet.
    pub(super) fn end_leases(self: &Arc<Self>, queue: &LeaseQueue) -> bool {
        let mut tokens = self.tokens();
        if tokens.end_leases(queue.now_ms()) {
            self.enqueue_locked(&mut tokens, queue);
        }
        tokens.is_outstanding = tokens.has_leases();
        tokens.is_outstanding
    }
}

/// Counts a waiting request until it is answered or its client disconnects.
struct Waiting<'a> {
    scope: &'a Scope,
    count: u32,
}

impl<'a> Waiting<'a> {
    fn new(scope: &'a Scope, count: u32) -> Self {
        scope.tokens().wait(count);
        Self { scope, count }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.scope.tokens().stop_waiting(self.count);
    }
}
