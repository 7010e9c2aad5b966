//! Notices that records wait for Kafka longer than they should, and go on doing so: more come than are confirmed.
//!
//! A queue that a burst or a pause of Kafka leaves behind becomes shorter by itself. One that stands makes every
//! record wait, and never helps. So records may wait for a moment, but a queue that stands is kept at the length that
//! is worked off within the time that a record may wait.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// A queue is longer than it should be for so long before it counts as standing.
const STANDS_AFTER: Duration = Duration::from_millis(500);
/// Time between two looks at the queue.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Over which time the rate is averaged.
const RATE_OVER_SECONDS: f64 = 0.5;
/// A queue up to here is never too long, so that a slow system gets requests enough to become faster.
const ALWAYS_ALLOWED: u64 = 1_000;

/// The queue of one producer, seen by all threads.
pub(super) struct StandingQueue {
    started: Instant,
    /// Records that were confirmed.
    confirmed: AtomicU64,
    /// Nobody looks before, milliseconds since `started`.
    next_look_ms: AtomicU64,
    stands: AtomicBool,
    allowed: AtomicU64,
    watch: Mutex<Watch>,
}

impl StandingQueue {
    pub(super) fn new(max_wait: Duration, now: Instant) -> Self {
        Self {
            started: now,
            confirmed: AtomicU64::new(0),
            next_look_ms: AtomicU64::new(0),
            stands: AtomicBool::new(false),
            allowed: AtomicU64::new(ALWAYS_ALLOWED),
            watch: Mutex::new(Watch::new(max_wait, now)),
        }
    }

    /// Counts a confirmed record.
    pub(super) fn confirm(&self) {
        self.confirmed.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a further record would make a standing queue of `waiting` records too long.
    pub(super) fn is_too_long(&self, waiting: u64, now: Instant) -> bool {
        let now_ms = u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
        let next_look_ms = self.next_look_ms.load(Ordering::Relaxed);
        let following = now_ms.saturating_add(LOOK_EVERY.as_millis() as u64);
        // Of the threads that come at this moment, one looks.
        if now_ms >= next_look_ms
            && self.next_look_ms.compare_exchange(next_look_ms, following, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.look(waiting, now);
        }
        self.stands.load(Ordering::Relaxed) && waiting >= self.allowed.load(Ordering::Relaxed)
    }

    fn look(&self, waiting: u64, now: Instant) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.look(waiting, self.confirmed.load(Ordering::Relaxed), now);
        self.allowed.store(watch.allowed(), Ordering::Relaxed);
        let stood = self.stands.swap(watch.stands, Ordering::Relaxed);
        let (allowed, rate) = (watch.allowed(), watch.rate.round());
        match (stood, watch.stands) {
            (false, true) => warn!(waiting, allowed, rate, "Records queue for Kafka; further events are refused."),
            (true, false) => info!(rate, "Records no longer queue for Kafka; events are accepted again."),
            _ => {}
        }
    }
}

/// What is known from looking at the queue. Pure.
struct Watch {
    max_wait: Duration,
    looked_at: Instant,
    confirmed: u64,
    /// Confirmed records per second.
    rate: f64,
    too_long_since: Option<Instant>,
    stands: bool,
}

impl Watch {
    fn new(max_wait: Duration, now: Instant) -> Self {
        Self { max_wait, looked_at: now, confirmed: 0, rate: 0.0, too_long_since: None, stands: false }
    }

    /// `waiting`: records that were handed over and are not confirmed; `confirmed`: how many ever were.
    fn look(&mut self, waiting: u64, confirmed: u64, now: Instant) {
        let seconds = now.saturating_duration_since(self.looked_at).as_secs_f64();
        if seconds > 0.0 {
            let rate = confirmed.saturating_sub(self.confirmed) as f64 / seconds;
            self.rate += (rate - self.rate) * (1.0 - (-seconds / RATE_OVER_SECONDS).exp());
            (self.looked_at, self.confirmed) = (now, confirmed);
        }
        let allowed = self.allowed();
        self.too_long_since = (waiting >= allowed).then(|| self.too_long_since.unwrap_or(now));
        self.stands = if self.stands {
            // Not as soon as it is short enough: refusing keeps it there.
            waiting > allowed / 2
        } else {
            self.too_long_since.is_some_and(|since| now.saturating_duration_since(since) >= STANDS_AFTER)
        };
    }

    /// How many records may wait.
    fn allowed(&self) -> u64 {
        ((self.rate * self.max_wait.as_secs_f64()) as u64).max(ALWAYS_ALLOWED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_WAIT: Duration = Duration::from_millis(100);

    /// A system in steps of 5 ms.
    struct Model {
        watch: Watch,
        now: Instant,
        waiting: f64,
        confirmed: f64,
    }

    impl Model {
        fn new() -> Self {
            let now = Instant::now();
            Self { watch: Watch::new(MAX_WAIT, now), now, waiting: 0.0, confirmed: 0.0 }
        }

        /// Confirms `rate` records a second and gets `offered`. Returns the longest queue and whether records were
        /// refused.
        fn run(&mut self, offered: f64, rate: f64, time: Duration) -> (f64, bool) {
            let (mut longest, mut refused) = (0.0_f64, false);
            let step = Duration::from_millis(5);
            for number in 1..=(time.as_millis() / step.as_millis()) {
                self.now += step;
                let done = self.waiting.min(rate * step.as_secs_f64());
                self.confirmed += done;
                self.waiting -= done;
                let is_too_long = self.watch.stands && self.waiting as u64 >= self.watch.allowed();
                if is_too_long {
                    refused = true;
                } else {
                    self.waiting += offered * step.as_secs_f64();
                }
                if number % 10 == 0 {
                    self.watch.look(self.waiting as u64, self.confirmed as u64, self.now);
                }
                longest = longest.max(self.waiting);
            }
            (longest, refused)
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_load_that_is_confirmed_is_never_refused() {
        for rate in [100.0, 10_000.0, 200_000.0] {
            let (_, refused) = Model::new().run(rate, rate * 1.05, 10 * SECOND);
            assert!(!refused, "{rate}");
        }
    }

    #[test]
    fn a_pause_shorter_than_the_limit_refuses_nothing() {
        let mut model = Model::new();
        model.run(10_000.0, 12_000.0, 5 * SECOND);
        let (longest, refused) = model.run(10_000.0, 0.0, Duration::from_millis(400));
        assert!(longest >= 3_900.0 && !refused, "{longest}");
        let (_, refused) = model.run(10_000.0, 60_000.0, 5 * SECOND);
        assert!(!refused, "it drains by itself");
    }

    #[test]
    fn a_standing_queue_is_kept_at_the_length_that_is_worked_off_in_time() {
        let mut model = Model::new();
        model.run(10_000.0, 10_500.0, 5 * SECOND);
        let (longest, refused) = model.run(20_000.0, 10_000.0, 2 * SECOND);
        assert!(refused && longest < 10_000.0, "it grows for half a second only: {longest}");
        let (longest, refused) = model.run(20_000.0, 10_000.0, 10 * SECOND);
        assert!(refused && longest <= 1_200.0, "{longest}");
    }

    #[test]
    fn refusing_costs_no_throughput_and_ends_with_the_overload() {
        let mut model = Model::new();
        model.run(40_000.0, 20_000.0, 5 * SECOND);
        let before = model.confirmed;
        model.run(40_000.0, 20_000.0, 10 * SECOND);
        assert!(model.confirmed - before >= 0.99 * 200_000.0, "{}", model.confirmed - before);
        model.run(10_000.0, 20_000.0, SECOND);
        let (longest, refused) = model.run(10_000.0, 20_000.0, 5 * SECOND);
        assert!(!refused && longest <= 200.0, "{longest}");
    }

    #[test]
    fn a_slow_system_still_gets_requests() {
        let mut model = Model::new();
        model.run(5_000.0, 10.0, 10 * SECOND);
        let (_, refused) = model.run(5_000.0, 10.0, SECOND);
        assert!(refused);
        assert!(model.waiting >= 990.0, "{}", model.waiting);
        model.run(5_000.0, 10_000.0, SECOND);
        let (_, refused) = model.run(5_000.0, 10_000.0, SECOND);
        assert!(!refused);
    }

    #[test]
    fn all_threads_see_what_one_of_them_found() {
        let start = Instant::now();
        let queue = StandingQueue::new(MAX_WAIT, start);
        let at = |ms| start + Duration::from_millis(ms);
        assert!(!queue.is_too_long(50_000, at(0)));
        assert!(!queue.is_too_long(50_000, at(400)));
        assert!(queue.is_too_long(50_000, at(500)));
        assert!(!queue.is_too_long(900, at(510)), "a short queue may always grow");
        (0..100_000).for_each(|_| queue.confirm());
        assert!(!queue.is_too_long(5_000, at(1_500)), "{}", queue.allowed.load(Ordering::Relaxed));
    }
}
