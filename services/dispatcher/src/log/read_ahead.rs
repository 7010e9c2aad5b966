//! When no further records are read: while the webhooks of those that were read are being sent fast. Reading on would
//! only spill webhooks, which takes longer than to send them, for instance when the log has many records after an
//! outage.
//!
//! What waits for an endpoint that is slow or hangs is not waited for: it is spilled, and the records behind it go on.
//!
//! Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use schemas::ids::EndpointId;

use crate::log::fair_queues::FairQueues;

/// Only what will be sent within this time is waited for.
const HORIZON: Duration = Duration::from_millis(500);
/// About so many deliveries a second can be spilled and sent from the schedule. Below this rate it would delay the
/// records behind less to spill than to wait.
const SPILL_RATE: usize = 5000;
/// What was started is known of the last one to two windows: longer than all may stand still while PostgreSQL or Kafka
/// writes to its disk. When a fast endpoint hangs, reading goes on after so long.
const WINDOW: Duration = Duration::from_millis(500);
/// The first rate is known after this time.
const FIRST_RATE_AFTER: Duration = Duration::from_millis(20);
/// A decision holds for so long: it looks at each queue.
const HOLDS: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(crate) struct ReadAhead {
    /// So many deliveries are enough for the next moments.
    enough: usize,
    window: Instant,
    started: Started,
    /// In the window before; `None`: it was too long ago.
    before: Option<Started>,
    /// The last decision over queues with enough, and when it was made.
    decided: Option<(Instant, bool)>,
}

/// First attempts that were started in a window.
#[derive(Debug, Default)]
struct Started {
    deliveries: usize,
    by_endpoint: HashMap<EndpointId, usize>,
}

impl ReadAhead {
    pub(crate) fn new(enough: usize, now: Instant) -> Self {
        Self { enough, window: now, started: Started::default(), before: None, decided: None }
    }

    /// A first attempt of so many deliveries was started.
    pub(crate) fn note_started(&mut self, endpoint: EndpointId, deliveries: usize, now: Instant) {
        self.roll(now);
        self.started.deliveries += deliveries;
        *self.started.by_endpoint.entry(endpoint).or_default() += deliveries;
    }

    /// Whether reading waits.
    pub(crate) fn waits(&mut self, queues: &FairQueues, now: Instant) -> bool {
        if queues.depth() < self.enough {
            return false;
        }
        match self.decided {
            Some((at, waits)) if now.saturating_duration_since(at) < HOLDS => waits,
            _ => {
                let waits = self.are_soon_sent(queues, now);
                self.decided = Some((now, waits));
                waits
            }
        }
    }

    /// Whether enough of what is queued will be sent within the horizon, if all goes on as in the last moments.
    fn are_soon_sent(&mut self, queues: &FairQueues, now: Instant) -> bool {
        self.roll(now);
        let elapsed = now.saturating_duration_since(self.window);
        let counted_for = if self.before.is_some() { WINDOW + elapsed } else { elapsed.max(FIRST_RATE_AFTER) };
        let within = |time: Duration, started: usize| {
            started * time.as_millis() as usize / counted_for.as_millis().max(1) as usize
        };
        let windows = || [Some(&self.started), self.before.as_ref()].into_iter().flatten();
        if within(Duration::from_secs(1), windows().map(|window| window.deliveries).sum()) < SPILL_RATE {
            return false;
        }
        let of = |endpoint| windows().filter_map(|window| window.by_endpoint.get(&endpoint)).sum();
        queues.at_most(|endpoint| within(HORIZON, of(endpoint))) >= self.enough
    }

    fn roll(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.window);
        if passed >= WINDOW {
            let ended = std::mem::take(&mut self.started);
            self.before = (passed < 2 * WINDOW).then_some(ended);
            self.window = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashSet, VecDeque};

    use schemas::ids::OrgId;

    use super::*;
    use crate::batch::gather::Room;
    use crate::log::queues::Queued;

    const ENOUGH: usize = 1000;
    const CHUNK: usize = 500;

    /// What happened in a number of seconds.
    #[derive(Debug, Default)]
    struct Outcome {
        read: usize,
        spilled: usize,
        sent: usize,
    }

    /// Reads a log without end, whose records are for these endpoints in turns. Each sends so many a second. What meets
    /// a full queue, or waits for a second, is spilled. At most one chunk is read in a millisecond.
    fn run(rates: &[usize], seconds: u64) -> Outcome {
        let start = Instant::now();
        let endpoints: Vec<(EndpointId, usize)> = rates.iter().map(|rate| (EndpointId::generate(), *rate)).collect();
        let (org, mut queues) = (OrgId::generate(), FairQueues::new(2 * ENOUGH));
        let (mut ahead, mut outcome) = (ReadAhead::new(ENOUGH, start), Outcome::default());
        let (mut waiting, mut by_age) = (HashSet::new(), VecDeque::new());
        let mut ticket = 0;
        for millis in 0..seconds * 1000 {
            let now = start + Duration::from_millis(millis);
            if !ahead.waits(&queues, now) {
                outcome.read += CHUNK;
                for _ in 0..CHUNK {
                    ticket += 1;
                    let (endpoint, _) = endpoints[ticket as usize % endpoints.len()];
                    if queues.push(org, endpoint, Queued { ticket, bytes: 1, since: now }) {
                        waiting.insert(ticket);
                        by_age.push_back((now, ticket, endpoint));
                    } else {
                        outcome.spilled += 1;
                    }
                }
            }
            for (endpoint, rate) in &endpoints {
                let due = rate * (millis as usize + 1) / 1000 - rate * millis as usize / 1000;
                for _ in 0..due {
                    let Some((sent, ())) = queues.next(|of, _| (of == *endpoint).then_some(((), Room::ONE))) else {
                        break;
                    };
                    outcome.sent += 1;
                    waiting.remove(&sent[0]);
                    ahead.note_started(*endpoint, 1, now);
                }
            }
            let is_old = |read_at: Instant| now.duration_since(read_at) >= Duration::from_secs(1);
            while let Some((_, ticket, endpoint)) = by_age.pop_front_if(|(read_at, ..)| is_old(*read_at)) {
                if waiting.remove(&ticket) {
                    outcome.spilled += 1;
                    queues.remove(org, endpoint, ticket);
                }
            }
        }
        outcome
    }

    #[test]
    fn a_log_that_is_behind_is_sent_and_not_spilled_while_endpoints_keep_up() {
        for rates in [vec![12_000], vec![6000, 6000], vec![20; 600]] {
            let Outcome { read, spilled, sent } = run(&rates, 10);
            // Until the rate is known, reading does not wait.
            let before = 30 * CHUNK;
            assert!(spilled <= before, "{} of {}/s: {read} read, {spilled} spilled", rates.len(), rates[0]);
            assert!(sent > 118_000, "{sent}: the endpoints always had something to do");
        }
    }

    #[test]
    fn nothing_waits_for_an_endpoint_that_is_slow_or_hangs() {
        for rates in [vec![0], vec![1000], vec![4000], vec![0; 100]] {
            let Outcome { read, .. } = run(&rates, 10);
            assert_eq!(read, 10_000 * CHUNK, "each millisecond a chunk");
        }
    }

    #[test]
    fn an_endpoint_that_hangs_takes_nothing_from_a_fast_one() {
        let Outcome { read, spilled, sent } = run(&[12_000, 0], 10);
        assert!(sent > 118_000, "{sent}");
        // What was for the one that hangs, and what was read before the rate was known.
        assert!(spilled <= read / 2 + 30 * CHUNK, "{read} read, {spilled} spilled");
    }

    #[test]
    fn what_was_started_counts_for_a_moment() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let (mut ahead, mut queues, endpoint) =
            (ReadAhead::new(ENOUGH, start), FairQueues::new(ENOUGH), EndpointId::generate());
        for ticket in 0..ENOUGH as u64 {
            assert!(queues.push(OrgId::generate(), endpoint, Queued { ticket, bytes: 1, since: start }));
        }
        assert!(!ahead.waits(&queues, at(0)));
        for millis in 0..600 {
            ahead.note_started(endpoint, 6, at(millis));
            assert_eq!(ahead.waits(&queues, at(millis)), millis >= 16, "{millis}");
        }
        assert!(ahead.waits(&queues, at(650)) && !ahead.waits(&queues, at(900)) && !ahead.waits(&queues, at(1600)));
    }
}
