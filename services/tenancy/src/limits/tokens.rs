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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHAPE: WindowShape = WindowShape { bucket_ms: 100, window: 20, spend: 2 };
    const SPAN_MS: i64 = 2_000;
    const LOCAL: Source = Source::Local { instances: 4 };

    /// The shared window, as the store keeps it.
    fn answer(row: &mut Window, ask: &Ask, now_ms: i64) -> Grant {
        let bucket = row.advance(SHAPE.bucket_at(now_ms));
        for unspent in &ask.returns {
            row.give_back(unspent.bucket, unspent.tokens);
        }
        if let Some(unrecorded) = &ask.unrecorded {
            row.merge(unrecorded);
        }
        let tokens = row.lease(ask.limit, ask.wanted);
        Grant {
            tokens,
            is_exhausted: tokens < ask.wanted,
            bucket,
            window: row.clone(),
            time_ms: now_ms,
            asked_ms: now_ms,
        }
    }

    /// Waits for a lease and takes `count`.
    fn take(tokens: &mut Tokens, row: &mut Window, count: u32, now_ms: i64) -> Decision {
        let first = tokens.take(count, now_ms, Source::Shared);
        if first != Decision::Wait {
            return first;
        }
        tokens.wait(count);
        let ask = tokens.ask(now_ms);
        tokens.granted(answer(row, &ask, now_ms), now_ms);
        tokens.stop_waiting(count);
        tokens.take(count, now_ms, Source::Shared)
    }

    #[test]
    fn a_refusal_is_remembered_until_half_a_bucket_later() {
        let (mut tokens, mut row) = (Tokens::new(SHAPE, 10), Window::new(SHAPE));
        assert!(matches!(take(&mut tokens, &mut row, 10, 0), Decision::Taken(_)));
        assert_eq!(take(&mut tokens, &mut row, 1, 0), Decision::Refused);
        assert_eq!(tokens.take(1, 49, Source::Shared), Decision::Refused, "PostgreSQL is not asked again");
        assert_eq!(tokens.take(1, 50, Source::Shared), Decision::Wait);
        tokens.set_limit(20);
        assert_eq!(tokens.take(1, 10, Source::Shared), Decision::Wait, "a changed limit is used at once");
        assert!(matches!(take(&mut tokens, &mut row, 1, 10), Decision::Taken(_)));
    }

    #[test]
    fn a_batch_is_taken_as_a_whole_or_not_at_all() {
        let (mut tokens, mut row) = (Tokens::new(SHAPE, 10), Window::new(SHAPE));
        assert!(matches!(take(&mut tokens, &mut row, 4, 0), Decision::Taken(_)));
        assert_eq!(take(&mut tokens, &mut row, 7, 0), Decision::Refused);
        assert!(matches!(take(&mut tokens, &mut row, 6, 0), Decision::Taken(_)), "the rest stays for others");
        assert_eq!(row.total(), 10);
    }

    #[test]
    fn unspent_tokens_are_given_back_to_their_bucket() {
        let (mut tokens, mut row) = (Tokens::new(SHAPE, 2_000), Window::new(SHAPE));
        assert!(matches!(take(&mut tokens, &mut row, 1, 0), Decision::Taken(_)));
        assert_eq!(row.total(), 10, "a slice is a 200th of the limit");
        assert!(!tokens.end_leases(199));
        assert!(tokens.end_leases(200));
        let ask = tokens.ask(200);
        assert_eq!((ask.wanted, ask.returns.as_slice()), (0, &[Return { bucket: 0, tokens: 9 }][..]));
        tokens.granted(answer(&mut row, &ask, 200), 200);
        assert_eq!(row.total(), 1);
    }

    #[test]
    fn a_slice_is_leased_before_the_last_one_is_spent() {
        let (mut tokens, mut row) = (Tokens::new(SHAPE, 2_000), Window::new(SHAPE));
        assert!(matches!(take(&mut tokens, &mut row, 1, 0), Decision::Taken(_)));
        for _ in 0..3 {
            assert!(matches!(tokens.take(1, 1, Source::Shared), Decision::Taken(_)));
            assert!(!tokens.needs_slice(1));
        }
        assert!(matches!(tokens.take(1, 1, Source::Shared), Decision::Taken(_)));
        assert!(tokens.needs_slice(1), "half of it is spent");
        let ask = tokens.ask(1);
        assert_eq!(ask.wanted, 41, "a 240th of the window at the rate of these 5 in 1 ms");
    }

    #[test]
    fn a_token_put_back_can_be_taken_again_or_returns() {
        let (mut tokens, mut row) = (Tokens::new(SHAPE, 10), Window::new(SHAPE));
        let Decision::Taken(Some(lease)) = take(&mut tokens, &mut row, 2, 0) else { panic!("not taken") };
        tokens.put_back(2, lease);
        assert_eq!(tokens.take(1, 100, Source::Shared), Decision::Taken(Some(lease)));
        assert!(tokens.end_leases(200), "one token is left");
        tokens.put_back(1, lease);
        assert_eq!(tokens.ask(200).returns.iter().map(|unspent| unspent.tokens).sum::<u32>(), 2);
    }

    #[test]
    fn the_local_window_admits_the_part_of_this_instance() {
        let (mut tokens, mut row) = (Tokens::new(SHAPE, 40), Window::new(SHAPE));
        assert!(matches!(take(&mut tokens, &mut row, 4, 0), Decision::Taken(_)));
        for _ in 0..6 {
            assert_eq!(tokens.take(1, 10, LOCAL), Decision::Taken(None));
        }
        assert_eq!(tokens.take(1, 10, LOCAL), Decision::Refused, "10 of 40, those before the outage among them");
        assert_eq!(tokens.quota(1, 10, LOCAL), Quota { limit: 40, remaining: 0, reset_ms: 2_290 });
        let ask = tokens.ask(20);
        tokens.ask_failed(ask.unrecorded.as_ref());
        let ask = tokens.ask(100);
        tokens.granted(answer(&mut row, &ask, 100), 100);
        assert_eq!(row.total(), 10, "the shared window learns of them");
        assert_eq!(tokens.quota(1, 100, Source::Shared).remaining, 30);
        assert!(tokens.ask(100).unrecorded.is_none(), "once");
    }

    #[test]
    fn an_instance_always_has_a_part_of_at_least_one() {
        let mut tokens = Tokens::new(SHAPE, 3);
        let many = Source::Local { instances: 10 };
        assert_eq!(tokens.take(1, 0, many), Decision::Taken(None));
        assert_eq!(tokens.take(1, 0, many), Decision::Refused);
    }

    #[test]
    fn the_quota_says_when_more_is_allowed() {
        let (mut tokens, mut row) = (Tokens::new(SHAPE, 10), Window::new(SHAPE));
        assert_eq!(tokens.quota(1, 0, Source::Shared), Quota { limit: 10, remaining: 10, reset_ms: 0 });
        assert!(matches!(take(&mut tokens, &mut row, 6, 30), Decision::Taken(_)));
        assert!(matches!(take(&mut tokens, &mut row, 4, 130), Decision::Taken(_)));
        assert_eq!(tokens.quota(1, 150, Source::Shared), Quota { limit: 10, remaining: 0, reset_ms: 2_150 });
        assert_eq!(tokens.quota(7, 150, Source::Shared).reset_ms, 2_250, "a batch waits for more buckets");
    }

    proptest! {
        /// Instances with clocks of their own lease, spend and give back in any order; no span exceeds the limit.
        #[test]
        fn instances_together_never_exceed_the_limit(
            limit in prop_oneof![1_u32..50, 1_000_u32..3_000],
            steps in proptest::collection::vec((0_usize..3, 0_i64..150, 1_u32..30), 1..300),
        ) {
            let mut row = Window::new(SHAPE);
            let mut instances = [0, 7, 31].map(|offset: i64| (offset, Tokens::new(SHAPE, limit)));
            let (mut now, mut admitted) = (0, Vec::new());
            for (instance, pause, count) in steps {
                now += pause;
                let (offset, tokens) = &mut instances[instance];
                let own = now + *offset;
                let mut taken = tokens.take(count, own, Source::Shared);
                if taken == Decision::Wait || tokens.needs_slice(own) {
                    tokens.wait(count);
                    let ask = tokens.ask(own);
                    let mut grant = answer(&mut row, &ask, now);
                    grant.asked_ms = own;
                    tokens.granted(grant, own);
                    tokens.stop_waiting(count);
                }
                if taken == Decision::Wait {
                    taken = tokens.take(count, own, Source::Shared);
                }
                if matches!(taken, Decision::Taken(_)) {
                    admitted.push((now, count));
                }
            }
            for (from, _) in &admitted {
                let within = admitted.iter().filter(|(at, _)| (*from..*from + SPAN_MS).contains(at));
                let sum: u32 = within.map(|(_, count)| count).sum();
                prop_assert!(sum <= limit, "{sum} of {limit} from {from} ms on");
            }
        }
    }
}
