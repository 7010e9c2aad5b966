//! The tokens that one instance has for one scope, and the decision about a request. Pure: it takes the time, in
//! milliseconds since the process started.

use std::collections::VecDeque;

use super::settings::{leases_ahead, slice};
use super::window::{Window, WindowShape};

/// More leases and returns than an instance has at any time; the rest is lost, which is safe.
const MAX_LEASES: usize = 64;

/// Tokens out of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    /// Its bucket in the shared window.
    bucket: i64,
    left: u32,
    /// When the tokens must not be spent any more.
    until_ms: i64,
}

/// Names a lease of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseId {
    bucket: i64,
    until_ms: i64,
}

/// Unspent tokens of a lease that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Return {
    pub bucket: i64,
    pub tokens: u32,
}

/// What an instance asks the shared window for.
#[derive(Debug)]
pub(crate) struct Ask {
    pub limit: u32,
    pub wanted: u32,
    pub returns: Vec<Return>,
    /// What was admitted by the local window and is not in the shared one yet, by age.
    pub unrecorded: Option<Window>,
}

/// The answer to an [`Ask`].
#[derive(Debug)]
pub(crate) struct Grant {
    pub tokens: u32,
    /// Whether there were fewer than wanted.
    pub is_exhausted: bool,
    pub bucket: i64,
    /// The shared window after the lease.
    pub window: Window,
    /// The time of the database.
    pub time_ms: i64,
    /// When the lease was asked for, in the time of this process.
    pub asked_ms: i64,
}

/// The decision about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// `Some`: all tokens came out of this lease.
    Taken(Option<LeaseId>),
    /// More tokens must be leased first.
    Wait,
    Refused,
}

/// Where new tokens come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The window in PostgreSQL.
    Shared,
    /// The local window: this instance's part of the limit.
    Local { instances: u32 },
}

/// What the headers of an answer say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    pub limit: u32,
    pub remaining: u32,
    /// Until more is allowed than now.
    pub reset_ms: u64,
}

/// The state of a scope in this instance.
#[derive(Debug)]
pub(crate) struct Tokens {
    shape: WindowShape,
    limit: u32,
    /// Oldest first.
    leases: VecDeque<Lease>,
    returns: Vec<Return>,
    /// Tokens that waiting requests need.
    waiting: u32,
    is_slice_wanted: bool,
    /// Whether it is in the queue of the leasing task.
    pub is_queued: bool,
    /// Whether the leasing task looks after its unspent tokens.
    pub is_outstanding: bool,
    /// The shared window as of the last lease, and what to add to the time of this process for that of the database.
    shared: Window,
    shared_offset_ms: i64,
    /// Until then, the shared window is known to be exhausted.
    exhausted_until_ms: i64,
    /// What this instance admitted.
    own: Window,
    unrecorded: Window,
    last_slice: u32,
    last_ask_ms: i64,
    spent_since_ask: u32,
}

impl Tokens {
    pub(crate) fn new(shape: WindowShape, limit: u32) -> Self {
        Self {
            shape,
            limit,
            leases: VecDeque::new(),
            returns: Vec::new(),
            waiting: 0,
            is_slice_wanted: false,
            is_queued: false,
            is_outstanding: false,
            shared: Window::new(shape),
            shared_offset_ms: 0,
            exhausted_until_ms: i64::MIN,
            own: Window::new(shape),
            unrecorded: Window::new(shape),
            last_slice: 0,
            last_ask_ms: 0,
            spent_since_ask: 0,
        }
    }

    pub(crate) const fn limit(&self) -> u32 {
        self.limit
    }

    pub(crate) fn set_limit(&mut self, limit: u32) {
        if self.limit != limit {
            self.limit = limit;
            self.exhausted_until_ms = i64::MIN;
        }
    }

    /// Takes `count` tokens, all or none.
    pub(crate) fn take(&mut self, count: u32, now_ms: i64, source: Source) -> Decision {
        self.end_leases(now_ms);
        let left = self.left();
        if left >= count {
            return Decision::Taken(self.spend(count, now_ms));
        }
        match source {
            Source::Local { instances } => {
                self.own.advance(self.shape.bucket_at(now_ms));
                if self.own.remaining(local_limit(self.limit, instances)) < count {
                    return Decision::Refused;
                }
                self.unrecorded.advance(self.shape.bucket_at(now_ms));
                self.unrecorded.add_to(self.unrecorded.newest(), count - left);
                self.spend(count, now_ms);
                Decision::Taken(None)
            }
            Source::Shared if now_ms < self.exhausted_until_ms => Decision::Refused,
            Source::Shared => Decision::Wait,
        }
    }

    /// Takes tokens back, because another scope refused the same request. Without their lease they are lost.
    pub(crate) fn put_back(&mut self, count: u32, from: LeaseId) {
        self.own.give_back(self.own.newest(), count);
        match self.leases.iter_mut().find(|lease| lease.id() == from) {
            Some(lease) => lease.left += count,
            None => self.add_return(Return { bucket: from.bucket, tokens: count }),
        }
    }

    fn add_return(&mut self, unspent: Return) {
        if unspent.tokens > 0 && self.returns.len() < MAX_LEASES {
            self.returns.push(unspent);
        }
    }

    /// Whether the next slice should be leased now, before requests wait for it. Call it after tokens were taken: an
    /// idle instance leases nothing.
    pub(crate) fn needs_slice(&mut self, now_ms: i64) -> bool {
        self.is_slice_wanted =
            leases_ahead(self.limit) && now_ms >= self.exhausted_until_ms && self.left() <= self.last_slice / 2;
        self.is_slice_wanted
    }

    pub(crate) fn wait(&mut self, count: u32) {
        self.waiting = self.waiting.saturating_add(count);
    }

    pub(crate) fn stop_waiting(&mut self, count: u32) {
        self.waiting = self.waiting.saturating_sub(count);
    }

    /// What to ask the shared window for.
    pub(crate) fn ask(&mut self, now_ms: i64) -> Ask {
        self.is_queued = false;
        self.end_leases(now_ms);
        let missing = self.waiting.saturating_sub(self.left());
        let window_ms = i64::from(self.shape.window * self.shape.bucket_ms);
        let wanted = if missing > 0 || std::mem::take(&mut self.is_slice_wanted) {
            slice(self.limit, missing, self.spent_since_ask, now_ms - self.last_ask_ms, window_ms)
        } else {
            0
        };
        if wanted > 0 {
            (self.last_ask_ms, self.spent_since_ask) = (now_ms, 0);
        }
        self.unrecorded.advance(self.shape.bucket_at(now_ms));
        let unrecorded = (self.unrecorded.total() > 0).then(|| self.unrecorded.clone());
        self.unrecorded.clear();
        Ask { limit: self.limit, wanted, returns: std::mem::take(&mut self.returns), unrecorded }
    }

    /// The ask was not answered. Its returns are lost: they may have been given back.
    pub(crate) fn ask_failed(&mut self, unrecorded: Option<&Window>) {
        if let Some(unrecorded) = unrecorded {
            self.unrecorded.advance(unrecorded.newest());
            self.unrecorded.merge(unrecorded);
        }
    }

    pub(crate) fn granted(&mut self, grant: Grant, now_ms: i64) {
        let spend_ms = i64::from(self.shape.spend * self.shape.bucket_ms);
        if grant.tokens > 0 && self.leases.len() < MAX_LEASES {
            let until_ms = grant.asked_ms + spend_ms;
            self.leases.push_back(Lease { bucket: grant.bucket, left: grant.tokens, until_ms });
            self.last_slice = grant.tokens;
        }
        if grant.is_exhausted {
            // Half a bucket: the next one that leaves the window is not missed by much.
            self.exhausted_until_ms = now_ms + i64::from(self.shape.bucket_ms / 2);
        }
        self.shared_offset_ms = grant.time_ms - now_ms;
        self.shared = grant.window;
    }

    /// Ends leases that are over. Returns whether there is something to give back.
    pub(crate) fn end_leases(&mut self, now_ms: i64) -> bool {
        while let Some(lease) = self.leases.pop_front_if(|lease| lease.until_ms <= now_ms || lease.left == 0) {
            self.add_return(Return { bucket: lease.bucket, tokens: lease.left });
        }
        !self.returns.is_empty()
    }

    pub(crate) fn has_leases(&self) -> bool {
        !self.leases.is_empty()
    }

    /// What is left for this instance, and when there will be more. `wanted`: tokens that were refused, at least 1.
    pub(crate) fn quota(&mut self, wanted: u32, now_ms: i64, source: Source) -> Quota {
        let unspent = self.left();
        let (window, limit, offset_ms, left) = match source {
            Source::Shared => (&mut self.shared, self.limit, self.shared_offset_ms, unspent),
            Source::Local { instances } => (&mut self.own, local_limit(self.limit, instances), 0, 0),
        };
        let time_ms = now_ms.saturating_add(offset_ms);
        window.advance(self.shape.bucket_at(time_ms));
        let remaining = window.remaining(limit).saturating_add(left).min(self.limit);
        // When nothing counts, nothing resets. Otherwise until the oldest bucket leaves, or enough of them.
        let more = remaining.max(wanted.saturating_sub(1)).saturating_add(1).saturating_sub(left);
        let buckets = window.buckets_until(limit, more.min(limit));
        let bucket_ms = i64::from(self.shape.bucket_ms);
        let into_bucket = time_ms.rem_euclid(bucket_ms);
        let reset_ms = if buckets == 0 { 0 } else { i64::from(buckets) * bucket_ms - into_bucket };
        Quota { limit: self.limit, remaining, reset_ms: reset_ms.unsigned_abs() }
    }

    fn left(&self) -> u32 {
        self.leases.iter().map(|lease| lease.left).fold(0, u32::saturating_add)
    }

    /// Returns the lease, if one had all the tokens.
    fn spend(&mut self, count: u32, now_ms: i64) -> Option<LeaseId> {
        let bucket = self.own.advance(self.shape.bucket_at(now_ms));
        self.own.add_to(bucket, count);
        self.spent_since_ask = self.spent_since_ask.saturating_add(count);
        let (mut open, mut from) = (count, None);
        for lease in self.leases.iter_mut().filter(|lease| lease.left > 0) {
            let spent = lease.left.min(open);
            lease.left -= spent;
            open -= spent;
            from = (spent == count).then(|| lease.id());
            if open == 0 {
                break;
            }
        }
        from
    }
}

impl Lease {
    const fn id(&self) -> LeaseId {
        LeaseId { bucket: self.bucket, until_ms: self.until_ms }
    }
}

/// This instance's part of a limit, at least 1.
fn local_limit(limit: u32, instances: u32) -> u32 {
    (limit / instances.max(1)).max(1)
}

#[cfg(test)]
mod tests;
