//! The requests that this process may send to an endpoint with a rate limit. Pure: takes `now`.
//!
//! All dispatchers share one row of places per endpoint (`shared_rate`), evenly spaced in time, and lease some of the
//! next ones. A place is used at its time or a little later, so that no interval of ten seconds has more than 110 % of
//! the rate, however many dispatchers there are. First attempts and retries take turns while both wait.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::lanes::Pool;
use super::shared_rate::Lease;

/// How late a place may be used. With a second it would be 110 % of the lowest rate, and one more.
pub(super) const LATEST: Duration = Duration::from_millis(900);
/// More places are asked for when those at hand reach no further than this.
const AHEAD: Duration = Duration::from_millis(125);
/// Who was refused a place within this time waits for one. Longer than the pause of the retry worker.
const WAITS_FOR: Duration = Duration::from_secs(2);
/// How long to wait for places that are asked for.
const ASKING: Duration = Duration::from_millis(20);
/// How long one pool waits for the other one's turn.
const TURN: Duration = Duration::from_millis(100);

/// The right to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    from: Instant,
    until: Instant,
}

/// Leased places that follow each other.
#[derive(Debug)]
struct Places {
    next: Place,
    interval: Duration,
    left: u32,
}

/// What attempts have shown of the rate that the endpoint takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RateFeedback {
    /// It asked for fewer requests, or did not answer.
    pub is_setback: bool,
    pub successes: u32,
}

#[derive(Debug)]
pub(super) struct RateBucket {
    /// Places that were taken and not used.
    returned: VecDeque<Place>,
    leased: VecDeque<Places>,
    is_asked: bool,
    ask_not_before: Instant,
    feedback: RateFeedback,
    /// First attempts and retries: when the pool was last refused.
    refused_at: [Option<Instant>; 2],
    /// Places that first attempts took beyond those of retries while both waited.
    lead: i64,
    /// Places that one pool may take before the other one has its turn.
    max_lead: i64,
}

fn index(pool: Pool) -> usize {
    match pool {
        Pool::FirstAttempts => 0,
        Pool::Retries => 1,
    }
}

fn sign(pool: Pool) -> i64 {
    if pool == Pool::FirstAttempts { 1 } else { -1 }
}

impl RateBucket {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            returned: VecDeque::new(),
            leased: VecDeque::new(),
            is_asked: false,
            ask_not_before: now,
            feedback: RateFeedback::default(),
            refused_at: [None; 2],
            lead: 0,
            max_lead: 1,
        }
    }

    /// Takes a place.
    ///
    /// # Errors
    /// There is none; there may be one after so long.
    pub(super) fn take(&mut self, pool: Pool, now: Instant) -> Result<Place, Duration> {
        self.drop_late(now);
        let other = 1 - index(pool);
        if !self.has_waited(other, now) {
            self.lead = 0;
        }
        if self.lead * sign(pool) >= self.max_lead {
            self.refused_at[index(pool)] = Some(now);
            return Err(TURN);
        }
        let Some(place) = self.pop(now) else {
            self.refused_at[index(pool)] = Some(now);
            return Err(self.wait(now));
        };
        self.lead += sign(pool);
        Ok(place)
    }

    /// Gives back a place that was not used.
    pub(super) fn give_back(&mut self, pool: Pool, place: Place) {
        self.lead -= sign(pool);
        // Each of them was leased and has its time, so there are never more than that.
        self.returned.push_back(place);
    }

    /// Whether to ask for more places now. Then [`Self::granted`] or [`Self::refused`] follows.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        let is_waited_for = self.has_waited(0, now) || self.has_waited(1, now);
        let wants = is_waited_for && !self.is_asked && self.ask_not_before <= now && self.reach(now) < AHEAD;
        self.is_asked |= wants;
        wants
    }

    pub(super) fn take_feedback(&mut self) -> RateFeedback {
        std::mem::take(&mut self.feedback)
    }

    /// Places were leased: asked for at `asked`, and answered at `now`.
    pub(super) fn granted(&mut self, lease: Lease, asked: Instant, now: Instant) {
        self.is_asked = false;
        let interval = lease.interval();
        self.max_lead = (i64::from(lease.count) / 2).max(1);
        // The database leased them between the two times: no place is used early, or too late.
        let next = Place { from: now + lease.starts_after, until: asked + lease.starts_after + LATEST };
        self.leased.push_back(Places { next, interval, left: lease.count });
    }

    /// There were no places: ask again after this time.
    pub(super) fn refused(&mut self, after: Duration, now: Instant) {
        self.is_asked = false;
        self.ask_not_before = now + after;
    }

    pub(super) fn has_setback(&mut self) {
        self.feedback.is_setback = true;
    }

    pub(super) fn has_success(&mut self) {
        self.feedback.successes = self.feedback.successes.saturating_add(1);
    }

    fn has_waited(&self, pool: usize, now: Instant) -> bool {
        self.refused_at[pool].is_some_and(|at| now.saturating_duration_since(at) < WAITS_FOR)
    }

    fn pop(&mut self, now: Instant) -> Option<Place> {
        if let Some(place) = self.returned.pop_front_if(|place| place.from <= now) {
            return Some(place);
        }
        let places = self.leased.front_mut().filter(|places| places.next.from <= now)?;
        let place = places.next;
        places.advance();
        if places.left == 0 {
            self.leased.pop_front();
        }
        Some(place)
    }

    fn drop_late(&mut self, now: Instant) {
        self.returned.retain(|place| place.until > now);
        while let Some(places) = self.leased.front_mut() {
            while places.left > 0 && places.next.until <= now {
                places.advance();
            }
            if places.left > 0 {
                return;
            }
            self.leased.pop_front();
        }
    }

    fn wait(&self, now: Instant) -> Duration {
        let until = match self.leased.front() {
            Some(places) => places.next.from,
            None if self.ask_not_before > now => self.ask_not_before,
            None => now + ASKING,
        };
        until.saturating_duration_since(now).max(Duration::from_millis(1))
    }

    /// How far ahead the leased places reach.
    fn reach(&self, now: Instant) -> Duration {
        let end = self.leased.back().map_or(now, |places| places.next.from + places.interval * places.left);
        end.saturating_duration_since(now)
    }
}

impl Places {
    fn advance(&mut self) {
        self.left -= 1;
        self.next = Place { from: self.next.from + self.interval, until: self.next.until + self.interval };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::attempt::slots::shared_rate::SharedRate;

    /// Buckets of some dispatchers, with the row that they share.
    struct Dispatchers {
        start: Instant,
        limit: u32,
        shared: SharedRate,
        buckets: Vec<RateBucket>,
    }

    impl Dispatchers {
        fn new(limit: u32, count: usize) -> Self {
            let start = Instant::now();
            let buckets = (0..count).map(|_| RateBucket::new(start)).collect();
            Self { start, limit, shared: SharedRate::new(0), buckets }
        }

        /// Asks for a place at this time; a lease takes so long.
        fn take(&mut self, which: usize, pool: Pool, at: Duration, latency: Duration) -> Option<Place> {
            let now = self.start + at;
            let taken = self.buckets[which].take(pool, now).ok();
            if self.buckets[which].ask(now) {
                let feedback = self.buckets[which].take_feedback();
                let at_us = i64::try_from((at + latency / 2).as_micros()).unwrap();
                let bucket = &mut self.buckets[which];
                match self.shared.lease(self.limit, feedback, at_us) {
                    Ok(lease) => bucket.granted(lease, now, now + latency),
                    Err(after) => bucket.refused(after, now + latency),
                }
            }
            taken
        }
    }

    /// Times at which one pool of one dispatcher gets a place; it asks every 10 ms.
    fn taken(limit: u32, seconds: u64) -> Vec<Duration> {
        let mut all = Dispatchers::new(limit, 1);
        let steps = (0..seconds * 100).map(|nth| Duration::from_millis(nth * 10));
        let mut times = Vec::new();
        for at in steps {
            while all.take(0, Pool::FirstAttempts, at, Duration::from_millis(2)).is_some() {
                times.push(at);
            }
        }
        times
    }

    #[test]
    fn one_dispatcher_gets_the_whole_rate() {
        for limit in [1, 3, 10, 100, 1000] {
            let count = taken(limit, 20).len();
            let wanted = limit as usize * 20;
            assert!(count * 100 >= wanted * 95 && count <= wanted + 1, "{limit} per second: {count}");
        }
    }

    #[test]
    fn both_pools_get_their_half_while_both_wait() {
        let mut all = Dispatchers::new(20, 1);
        let mut counts = [0, 0];
        for nth in 0..4000_u64 {
            let at = Duration::from_millis(nth * 5);
            // As the retry worker: seldom, and then several.
            if nth % 40 == 0 {
                while all.take(0, Pool::Retries, at, Duration::ZERO).is_some() {
                    counts[1] += 1;
                }
            }
            counts[0] += usize::from(all.take(0, Pool::FirstAttempts, at, Duration::ZERO).is_some());
        }
        let total: usize = counts.iter().sum();
        assert!(total >= 380 && counts.iter().all(|count| count * 10 >= total * 4), "{counts:?}");
    }

    #[test]
    fn a_place_that_was_not_used_is_used_by_the_next() {
        let mut all = Dispatchers::new(1, 1);
        let at = Duration::from_millis;
        assert_eq!(all.take(0, Pool::Retries, at(0), Duration::ZERO), None);
        let place = all.take(0, Pool::Retries, at(0), Duration::ZERO).unwrap();
        assert_eq!(all.take(0, Pool::Retries, at(0), Duration::ZERO), None);
        all.buckets[0].give_back(Pool::Retries, place);
        assert_eq!(all.take(0, Pool::Retries, at(100), Duration::ZERO), Some(place));
        all.buckets[0].give_back(Pool::Retries, place);
        assert_eq!(all.take(0, Pool::Retries, at(900), Duration::ZERO), None, "it is too late for it");
    }

    proptest! {
        #[test]
        fn no_ten_seconds_have_more_than_a_tenth_above_the_rate(
            limit in 1_u32..40,
            steps in prop::collection::vec((0_usize..4, any::<bool>(), 0_u64..400, 0_u64..300), 1..400),
        ) {
            let mut all = Dispatchers::new(limit, 4);
            let (mut at, mut times) = (Duration::ZERO, Vec::new());
            for (which, is_first, millis, latency) in steps {
                at += Duration::from_millis(millis);
                let pool = if is_first { Pool::FirstAttempts } else { Pool::Retries };
                while all.take(which, pool, at, Duration::from_millis(latency)).is_some() {
                    times.push(at);
                }
            }
            for (index, from) in times.iter().enumerate() {
                let count = times[index..].iter().filter(|time| **time < *from + Duration::from_secs(10)).count();
                prop_assert!(count * 10 <= limit as usize * 110, "{count} at {limit} per second");
            }
        }
    }
}
