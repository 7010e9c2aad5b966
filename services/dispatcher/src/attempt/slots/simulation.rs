//! First attempts of many organizations under a simulated clock: the queues, the lanes and the circuits decide, and
//! nothing is sent. Shows what the bad endpoints of some cost the webhooks of the others. `docs/webhooks.md` has the
//! figures; `cargo test -p dispatcher simulation -- --nocapture` prints them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use schemas::ids::{EndpointId, OrgId};

use super::endpoint::{Observed, Refusal};
use super::lanes::{Pool, PoolSizes};
use super::table::{Asking, SlotTable};
use crate::batch::gather::Room;
use crate::log::fair_queues::FairQueues;
use crate::log::queues::Queued;

const SIZES: PoolSizes = PoolSizes { first_attempts: 1000, retries: 500 };
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_IN_FLIGHT: usize = 64;
/// As the dispatcher: what waits for longer goes to the schedule.
const SPILL_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
struct SimulatedEndpoint {
    id: EndpointId,
    org_id: OrgId,
    hangs: bool,
    latency: Duration,
}

struct Arrival {
    at: Duration,
    endpoint: usize,
}

/// When first attempts of good endpoints started, after the arrival of their event.
struct Waits {
    waits: Vec<Duration>,
    spilled: usize,
}

impl Waits {
    fn percentile(&mut self, percent: usize) -> Duration {
        self.waits.sort_unstable();
        self.waits.get(self.waits.len() * percent / 100).copied().unwrap_or(SPILL_AFTER)
    }
}

/// Runs the arrivals, which are in the order of their times.
fn run(endpoints: &[SimulatedEndpoint], arrivals: &[Arrival]) -> Waits {
    let start = Instant::now();
    let mut queues = FairQueues::new(1000);
    let mut table = SlotTable::new(SIZES, start);
    let index: HashMap<EndpointId, usize> =
        endpoints.iter().enumerate().map(|(index, endpoint)| (endpoint.id, index)).collect();
    let mut ends: BinaryHeap<Reverse<(Duration, usize, u64)>> = BinaryHeap::new();
    let mut waiting: VecDeque<usize> = VecDeque::new();
    let mut started = vec![false; arrivals.len()];
    let mut result = Waits { waits: Vec::new(), spilled: 0 };
    let mut next = 0;
    loop {
        let arrival = arrivals.get(next).map(|arrival| arrival.at);
        let end = ends.peek().map(|Reverse((at, ..))| *at);
        let Some(now) = [arrival, end].into_iter().flatten().min() else { return result };
        while arrivals.get(next).is_some_and(|arrival| arrival.at <= now) {
            let endpoint = endpoints[arrivals[next].endpoint];
            let queued = Queued { ticket: next as u64, bytes: 0, since: start };
            if queues.push(endpoint.org_id, endpoint.id, queued) {
                waiting.push_back(next);
            }
            next += 1;
        }
        while let Some(Reverse((at, endpoint, number))) = ends.peek().copied()
            && at <= now
        {
            ends.pop();
            let endpoint = endpoints[endpoint];
            let status = (!endpoint.hangs).then_some(200);
            let latency = if endpoint.hangs { TIMEOUT } else { endpoint.latency };
            table.end(
                number,
                Some(Observed { status, latency, retry_after: None, is_of_system: false }),
                start + now,
                0.0,
            );
        }
        while let Some(oldest) =
            waiting.pop_front_if(|ticket| started[*ticket] || arrivals[*ticket].at + SPILL_AFTER <= now)
        {
            if !started[oldest] {
                let endpoint = endpoints[arrivals[oldest].endpoint];
                queues.remove(endpoint.org_id, endpoint.id, oldest as u64);
                result.spilled += usize::from(!endpoint.hangs);
            }
        }
        let mut grant = |id: EndpointId, _| {
            let endpoint = endpoints[index[&id]];
            let (pool, org_id, max_in_flight) = (Pool::FirstAttempts, endpoint.org_id, MAX_IN_FLIGHT);
            match table.take(Asking { pool, org_id, endpoint_id: id, max_in_flight, rate_limit: None }, start + now) {
                Ok(number) => Some((Some((index[&id], number)), Room::ONE)),
                Err(Refusal::CircuitOpen(_) | Refusal::Stopped(_)) => Some((None, Room::ONE)),
                Err(Refusal::Full | Refusal::RateLimited(_)) => None,
            }
        };
        while let Some((tickets, granted)) = queues.next(&mut grant) {
            let ticket = tickets[0] as usize;
            started[ticket] = true;
            let Some((endpoint, number)) = granted else { continue };
            if endpoints[endpoint].hangs {
                ends.push(Reverse((now + TIMEOUT, endpoint, number)));
            } else {
                result.waits.push(now - arrivals[ticket].at);
                ends.push(Reverse((now + endpoints[endpoint].latency, endpoint, number)));
            }
        }
    }
}

/// 1,000 organizations with one to three endpoints each, of which some hang; 4,000 events per second for 30 s. The
/// organization of an event is chosen by Zipf's law.
fn population(random: &mut StdRng, bad_percent: u32) -> (Vec<SimulatedEndpoint>, Vec<Arrival>) {
    let mut endpoints = Vec::new();
    let mut of_orgs = Vec::new();
    for _ in 0..1000 {
        let org_id = OrgId::generate();
        let first = endpoints.len();
        for _ in 0..random.random_range(1..=3) {
            let latency = Duration::from_millis(random.random_range(5..80));
            // Drawn in any case, so that the good endpoints are the same with and without bad ones.
            let hangs = random.random_range(0..100) < bad_percent;
            endpoints.push(SimulatedEndpoint { id: EndpointId::generate(), org_id, hangs, latency });
        }
        of_orgs.push(first..endpoints.len());
    }
    let weights: Vec<f64> = (1..=of_orgs.len()).map(|rank| 1.0 / rank as f64).collect();
    let total: f64 = weights.iter().sum();
    let mut arrivals = Vec::new();
    for nth in 0..120_000_u64 {
        let mut at = random.random_range(0.0..total);
        let org = weights.iter().position(|weight| {
            at -= weight;
            at <= 0.0
        });
        for endpoint in of_orgs[org.unwrap_or(0)].clone() {
            arrivals.push(Arrival { at: Duration::from_micros(nth * 250), endpoint });
        }
    }
    (endpoints, arrivals)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[test]
fn bad_endpoints_cost_the_good_ones_of_others_nothing() {
    let mut p95 = Vec::new();
    for bad_percent in [0, 5] {
        let (endpoints, arrivals) = population(&mut StdRng::seed_from_u64(16), bad_percent);
        let mut waits = run(&endpoints, &arrivals);
        let figures = [50, 95, 99].map(|percent| milliseconds(waits.percentile(percent)));
        println!("{bad_percent} % hang: wait p50, p95, p99 {figures:?} ms; {} spilled", waits.spilled);
        p95.push(waits.percentile(95));
    }
    assert!(p95[1] <= p95[0] + Duration::from_millis(5), "{p95:?}");
}

#[test]
fn a_hostile_organization_delays_no_other() {
    let (hostile, fine) = (OrgId::generate(), OrgId::generate());
    let endpoint = |org_id, hangs| SimulatedEndpoint {
        id: EndpointId::generate(),
        org_id,
        hangs,
        latency: Duration::from_millis(10),
    };
    let mut endpoints: Vec<_> = (0..100).map(|_| endpoint(hostile, true)).collect();
    endpoints.push(endpoint(fine, false));
    let mut arrivals = Vec::new();
    for second in 0..60_u64 {
        for nth in 0..20 {
            let at = Duration::from_millis(second * 1000 + nth * 50);
            arrivals.extend((0..100).map(|endpoint| Arrival { at, endpoint }));
            arrivals.extend((nth % 2 == 0).then_some(Arrival { at: at + Duration::from_millis(1), endpoint: 100 }));
        }
    }
    let mut waits = run(&endpoints, &arrivals);
    let (p95, p100) = (waits.percentile(95), waits.waits[waits.waits.len() - 1]);
    println!("100 hanging endpoints: wait p95 {:?} ms, longest {:?} ms", milliseconds(p95), milliseconds(p100));
    assert_eq!((waits.waits.len(), waits.spilled), (600, 0));
    assert!(p100 <= Duration::from_millis(5), "{p100:?}");
}
