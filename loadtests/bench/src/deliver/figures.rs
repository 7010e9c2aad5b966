//! What became of the accepted events: when each arrived, and what is missing or came twice. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use uuid::Uuid;

use super::receiver::Arrival;
use crate::recorder::{AcceptedEvent, Latency, histogram, micros};

/// The deliveries of one run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Deliveries {
    pub accepted: u64,
    /// Accepted events that did not arrive within the time that they had.
    pub missing: u64,
    /// Arrivals of an event after its first. Triggers delivers at least once.
    pub repeated: u64,
    /// Events that arrived for the first time, per second. Without the first tenth: connections are opened meanwhile,
    /// and of events that wait on the log, some arrive before their dispatcher is stopped.
    pub per_second: f64,
    /// From the reply to the request that brought the event until it arrived. Only of events that were accepted in the
    /// measured part, one by one.
    pub latency: Latency,
}

/// Joins what was accepted with what arrived. Without `accepted` (events came in batches, whose ids are not known)
/// there is no latency.
pub(crate) fn join(
    count: u64,
    accepted: &[AcceptedEvent],
    arrivals: &[Arrival],
    started: Instant,
    measured_from: Duration,
) -> Deliveries {
    let mut first: HashMap<Uuid, Instant> = HashMap::with_capacity(arrivals.len());
    for arrival in arrivals {
        first.entry(arrival.event_id).and_modify(|at| *at = arrival.at.min(*at)).or_insert(arrival.at);
    }
    let mut latency = histogram();
    let mut missing = 0;
    for event in accepted {
        let Some(at) = first.get(&event.id) else {
            missing += 1;
            continue;
        };
        let done = Duration::from_micros(event.done_us.into());
        if Duration::from_micros(event.sent_us.into()) >= measured_from {
            latency.saturating_record(micros(at.saturating_duration_since(started + done)).max(1));
        }
    }
    if accepted.is_empty() {
        missing = count.saturating_sub(first.len() as u64);
    }
    let mut times: Vec<Instant> = first.values().copied().collect();
    times.sort_unstable();
    let counted = &times[times.len() / 10..];
    let span = counted.last().zip(counted.first()).map_or(0.0, |(last, first)| (*last - *first).as_secs_f64());
    Deliveries {
        accepted: count,
        missing,
        repeated: (arrivals.len() - first.len()) as u64,
        per_second: if span > 0.0 { (counted.len() - 1) as f64 / span } else { 0.0 },
        latency: Latency::of(&latency),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_counts_from_its_reply_to_its_first_arrival() {
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        let [early, late, lost] = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
        let event = |id, sent_us| AcceptedEvent { id, organization: 0, sent_us, done_us: sent_us + 1_000 };
        let accepted = [event(early, 0), event(late, 100_000), event(lost, 100_000)];
        let arrivals = [(early, 5), (late, 121), (late, 110), (late, 1_005)];
        let arrivals = arrivals.map(|(event_id, ms)| Arrival { event_id, at: at(ms) });
        let seen = join(3, &accepted, &arrivals, started, Duration::from_millis(50));
        assert_eq!((seen.accepted, seen.missing, seen.repeated, seen.latency.count), (3, 1, 2, 1));
        assert!((seen.latency.max_ms - 9.0).abs() < 0.1, "{}", seen.latency.max_ms);
        assert!((seen.per_second - 1.0 / 0.105).abs() < 0.1, "{}", seen.per_second);
        let of_batches = join(3, &[], &arrivals, started, Duration::ZERO);
        assert_eq!((of_batches.missing, of_batches.latency.count), (1, 0));
    }

    #[test]
    fn the_first_tenth_does_not_count_for_the_rate() {
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        // Two before the dispatcher was stopped, and then one every 10 ms.
        let times = [0, 1].into_iter().chain((0..18).map(|n| 5000 + n * 10));
        let arrivals: Vec<Arrival> = times.map(|ms| Arrival { event_id: Uuid::now_v7(), at: at(ms) }).collect();
        let seen = join(20, &[], &arrivals, started, Duration::ZERO);
        assert!((seen.per_second - 100.0).abs() < 0.1, "{}", seen.per_second);
    }
}
