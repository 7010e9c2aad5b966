//! The sliding window of one scope. Pure: it knows buckets by their number and takes the time as an argument.
//!
//! A bucket is a second (in production) of the clock that all writers of the window share. A lease adds its tokens to
//! the bucket of the time at which it was made, and its tokens are spent within `spend` after that. A bucket counts for
//! the window, plus `spend`, plus one bucket. So the buckets that count together always contain those of all tokens
//! that were spent in any span of the length of the window, and no such span holds more than the limit.

/// Lengths of a window and its buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WindowShape {
    pub bucket_ms: u32,
    /// Buckets in the window.
    pub window: u32,
    /// Buckets during which leased tokens may be spent.
    pub spend: u32,
}

/// Windows with more buckets are refused, so that a row stays small.
const MAX_BUCKETS: usize = 256;
const COUNT_BYTES: usize = 4;

impl WindowShape {
    /// How many buckets count.
    pub(crate) const fn buckets(self) -> u32 {
        self.window + self.spend + 1
    }

    /// The number of the bucket at a time.
    pub(crate) const fn bucket_at(self, time_ms: i64) -> i64 {
        time_ms.div_euclid(self.bucket_ms as i64)
    }
}

/// Tokens per bucket, for the buckets that count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    /// A ring: bucket `n` is at `n` modulo its length.
    counts: Box<[u32]>,
    newest: i64,
    /// The sum of `counts`.
    total: u64,
}

impl Window {
    pub(crate) fn new(shape: WindowShape) -> Self {
        Self { counts: vec![0; shape.buckets() as usize].into_boxed_slice(), newest: 0, total: 0 }
    }

    /// Reads the form of [`Self::to_bytes`]. A window of another length keeps what fits.
    pub(crate) fn from_bytes(shape: WindowShape, newest: i64, bytes: &[u8]) -> Self {
        let mut window = Self::new(shape);
        window.newest = newest;
        for (age, count) in bytes.as_chunks::<COUNT_BYTES>().0.iter().take(MAX_BUCKETS).enumerate() {
            if let Some(bucket) = i64::try_from(age).ok().and_then(|age| newest.checked_sub(age)) {
                window.add_to(bucket, u32::from_le_bytes(*count));
            }
        }
        window
    }

    /// The counts, newest first.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.ages().flat_map(|(_, count)| count.to_le_bytes()).collect()
    }

    pub(crate) const fn newest(&self) -> i64 {
        self.newest
    }

    fn length(&self) -> i64 {
        i64::try_from(self.counts.len()).unwrap_or(i64::MAX)
    }

    fn slot(&self, bucket: i64) -> usize {
        // Not negative and less than the length.
        usize::try_from(bucket.rem_euclid(self.length())).unwrap_or_default()
    }

    /// Age in buckets and count of each bucket, newest first.
    fn ages(&self) -> impl Iterator<Item = (i64, u32)> + '_ {
        (0..).zip(self.oldest_first().rev())
    }

    /// The count of each bucket.
    fn oldest_first(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        // The oldest is behind the newest in the ring.
        let (newer, older) = self.counts.split_at(self.slot(self.newest.wrapping_add(1)));
        older.iter().chain(newer).copied()
    }

    /// Moves the window to the bucket of now; what is too old is dropped. Returns the bucket to add to.
    ///
    /// Now may be a little before the newest bucket, when the writer waited for its turn after it read the clock: then
    /// the newest bucket is now. When it is long before, the clock was set back, and the counts move with it.
    pub(crate) fn advance(&mut self, now: i64) -> i64 {
        if self.newest > now && self.newest.saturating_sub(now) > self.length() {
            let ordered: Vec<(i64, u32)> = self.ages().collect();
            self.newest = now;
            for (age, count) in ordered {
                let slot = self.slot(now.wrapping_sub(age));
                self.counts[slot] = count;
            }
        }
        if now.saturating_sub(self.newest) >= self.length() {
            self.counts.fill(0);
            self.total = 0;
            self.newest = now;
        }
        while self.newest < now {
            self.newest += 1;
            let slot = self.slot(self.newest);
            self.total -= u64::from(std::mem::take(&mut self.counts[slot]));
        }
        self.newest
    }

    /// What the buckets that count hold.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// What the limit leaves.
    pub(crate) fn remaining(&self, limit: u32) -> u32 {
        let left = u64::from(limit).saturating_sub(self.total);
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    /// Leases as many of the `wanted` tokens as the limit leaves. Advance first.
    pub(crate) fn lease(&mut self, limit: u32, wanted: u32) -> u32 {
        let granted = wanted.min(self.remaining(limit));
        self.add_to(self.newest, granted);
        granted
    }

    /// Adds to a bucket, unless it no longer counts.
    pub(crate) fn add_to(&mut self, bucket: i64, tokens: u32) {
        if self.counts_at(bucket) {
            let slot = self.slot(bucket);
            let added = tokens.min(u32::MAX - self.counts[slot]);
            self.counts[slot] += added;
            self.total += u64::from(added);
        }
    }

    /// Takes unspent tokens out of the bucket that they were leased in. Returns how many still counted.
    pub(crate) fn give_back(&mut self, bucket: i64, tokens: u32) -> u32 {
        if !self.counts_at(bucket) {
            return 0;
        }
        let slot = self.slot(bucket);
        let removed = tokens.min(self.counts[slot]);
        self.counts[slot] -= removed;
        self.total -= u64::from(removed);
        removed
    }

    /// Adds a window of another clock: both have been advanced to now, and a bucket keeps its age.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (age, count) in other.ages() {
            self.add_to(self.newest.saturating_sub(age), count);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    fn counts_at(&self, bucket: i64) -> bool {
        bucket <= self.newest && self.newest.saturating_sub(bucket) < self.length()
    }

    /// In how many buckets, counted from the newest, `tokens` more will fit into the limit. 0: they fit now.
    pub(crate) fn buckets_until(&self, limit: u32, tokens: u32) -> u32 {
        let mut left = self.total;
        let fits = |left: u64| left + u64::from(tokens) <= u64::from(limit);
        if fits(left) {
            return 0;
        }
        for (count, waited) in self.oldest_first().zip(1_u32..) {
            left -= u64::from(count);
            if fits(left) {
                return waited;
            }
        }
        u32::try_from(self.counts.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHAPE: WindowShape = WindowShape { bucket_ms: 10, window: 20, spend: 3 };

    #[test]
    fn a_bucket_leaves_after_window_spend_and_one() {
        let mut window = Window::new(SHAPE);
        window.advance(100);
        assert_eq!((window.lease(10, 7), window.lease(10, 7), window.lease(10, 1)), (7, 3, 0));
        assert_eq!(window.buckets_until(10, 1), 24);
        window.advance(123);
        assert_eq!((window.remaining(10), window.buckets_until(10, 10)), (0, 1));
        window.advance(124);
        assert_eq!((window.remaining(10), window.buckets_until(10, 10)), (10, 0));
    }

    #[test]
    fn tokens_return_to_their_own_bucket_only_while_it_counts() {
        let mut window = Window::new(SHAPE);
        let bucket = window.advance(5);
        window.lease(10, 6);
        window.advance(8);
        window.lease(10, 4);
        assert_eq!((window.give_back(bucket, 9), window.total()), (6, 4), "no more than the bucket holds");
        window.advance(5 + 24);
        assert_eq!((window.give_back(bucket, 1), window.total()), (0, 4));
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_the_counts() {
        let mut window = Window::new(SHAPE);
        window.advance(1_000_000);
        window.lease(10, 6);
        assert_eq!(window.advance(999_999), 1_000_000, "a writer that waited for its turn");
        assert_eq!(window.advance(50), 50, "the clock was set back");
        assert_eq!(window.remaining(10), 4);
        window.advance(50 + 24);
        assert_eq!(window.remaining(10), 10);
    }

    #[test]
    fn a_smaller_limit_leaves_nothing_until_the_old_tokens_left() {
        let mut window = Window::new(SHAPE);
        window.advance(0);
        window.lease(100, 60);
        assert_eq!((window.remaining(50), window.lease(50, 1)), (0, 0));
        assert_eq!(window.buckets_until(50, 1), 24);
        assert_eq!(window.buckets_until(50, 51), 24, "never, and bounded");
    }

    #[test]
    fn an_odd_row_is_read_as_far_as_it_fits() {
        for bytes in [&[][..], &[1], &[1, 0, 0, 0, 9], &[255; 4_000]] {
            let mut window = Window::from_bytes(SHAPE, i64::MIN, bytes);
            window.advance(i64::MAX);
            window.advance(i64::MIN);
            assert_eq!(window.total(), 0);
        }
    }

    /// One step of an instance: some time passes, tokens are leased, some are spent later, the rest is given back.
    #[derive(Debug, Clone)]
    struct Step {
        pause_ms: i64,
        /// How long the writer waited for its turn after it had read the clock.
        turn_ms: i64,
        wanted: u32,
        /// When the tokens that are spent are spent, after the lease, in thousandths of the time they may.
        spent_at: u32,
        /// How many are not spent, and given back when the next lease is made.
        unspent: u32,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (0_i64..60, 0_i64..15, 0_u32..40, 0_u32..1_000, 0_u32..20).prop_map(
            |(pause_ms, turn_ms, wanted, spent_at, unspent)| Step { pause_ms, turn_ms, wanted, spent_at, unspent },
        );
        proptest::collection::vec(step, 1..120)
    }

    /// When the tokens of each lease are spent, and how many. Leases and returns go through the stored form.
    fn spending(limit: u32, steps: &[Step]) -> Vec<(i64, u32)> {
        let spend_ms = i64::from(SHAPE.spend * SHAPE.bucket_ms);
        let (mut row, mut now, mut spent) = (Window::new(SHAPE), 0_i64, Vec::new());
        let mut returns: Vec<(i64, u32, i64)> = Vec::new();
        for step in steps {
            now += step.pause_ms;
            let read_at = now;
            now += step.turn_ms;
            row = Window::from_bytes(SHAPE, row.newest(), &row.to_bytes());
            let bucket = row.advance(SHAPE.bucket_at(read_at));
            // Only tokens that nobody can spend any more are given back.
            returns.retain(|(from, tokens, until)| {
                let is_over = *until <= now;
                if is_over {
                    row.give_back(*from, *tokens);
                }
                !is_over
            });
            let granted = row.lease(limit, step.wanted);
            let unspent = step.unspent.min(granted);
            let until = read_at + spend_ms;
            if until <= now {
                returns.push((bucket, granted, until));
                continue;
            }
            spent.push((now + (until - 1 - now) * i64::from(step.spent_at) / 1_000, granted - unspent));
            returns.push((bucket, unspent, until));
        }
        spent
    }

    proptest! {
        #[test]
        fn no_span_of_the_window_holds_more_than_the_limit(limit in 1_u32..60, steps in steps()) {
            let spent = spending(limit, &steps);
            let span = i64::from(SHAPE.window * SHAPE.bucket_ms);
            for (from, _) in &spent {
                let within = spent.iter().filter(|(at, _)| (*from..*from + span).contains(at));
                let sum: u32 = within.map(|(_, tokens)| tokens).sum();
                prop_assert!(sum <= limit, "{sum} of {limit} within {span} ms from {from}");
            }
        }

        #[test]
        fn even_load_gets_at_least_90_percent(limit in 40_u32..4_000, over in 100_u32..200) {
            let (mut row, mut admitted, mut offered) = (Window::new(SHAPE), 0_u64, 0_u64);
            let buckets = 20 * i64::from(SHAPE.window);
            for bucket in 0..buckets {
                row.advance(bucket);
                let due = (u64::try_from(bucket).unwrap() + 1) * u64::from(limit) * u64::from(over)
                    / (100 * u64::from(SHAPE.window));
                admitted += u64::from(row.lease(limit, u32::try_from(due - offered).unwrap()));
                offered = due;
            }
            // This shape counts 24 buckets for a window of 20; production counts 63 for 60.
            let allowed = 20 * u64::from(limit) * u64::from(SHAPE.window) / u64::from(SHAPE.buckets());
            prop_assert!(admitted >= allowed * 99 / 100, "{admitted} of {allowed}");
            prop_assert!(60 * 100 / 63 >= 95);
        }

        #[test]
        fn the_total_is_the_sum_of_the_buckets(
            moves in proptest::collection::vec((-50_i64..50, 0_u32..9, -30_i64..5, 0_u32..9), 0..80),
        ) {
            let (mut row, mut now) = (Window::new(SHAPE), 1_000);
            for (step, tokens, bucket, back) in moves {
                now += step;
                let newest = row.advance(now);
                row.add_to(newest, tokens);
                row.give_back(newest + bucket, back);
                prop_assert_eq!(row.total(), row.ages().map(|(_, count)| u64::from(count)).sum::<u64>());
                let stored = Window::from_bytes(SHAPE, row.newest(), &row.to_bytes());
                prop_assert_eq!(&stored, &row);
            }
        }
    }
}
