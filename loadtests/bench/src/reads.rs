//! Reads beside the requests (S5): pages of one inbox, the oldest events first, at several depths, with and without a
//! filter by type. Each kind is an open load of its own, so that one that is slow delays no other.

use loadkit::EVENT_TYPE;
use serde::Serialize;

use crate::control_client::ControlClient;
use crate::generator::Generator;
use crate::inbox_reader;
use crate::organizations::Organization;
use crate::recorder::{Latency, RequestOutcome};
use crate::request::Requests;
use crate::scenario::{Check, Load, Pace, Thresholds};
use crate::schedule::Schedule;
use crate::target::Address;
use crate::variation::{PayloadBytes, Shares};

/// Events of a page.
const PAGE_EVENTS: u64 = 50;
/// The pages that are read.
pub(crate) const DEPTHS: [u64; 3] = [1, 10, 1_000];
/// Connections of each kind.
const CONNECTIONS: usize = 16;

/// The reads of one kind.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ReadFigures {
    /// `page 10`, or `page 10, one type`.
    pub kind: String,
    /// Reads of the measured part that were not answered with a page.
    pub errors: u64,
    /// From the intended time, of all reads of the measured part.
    pub latency: Latency,
}

/// Reads that are under way.
pub(crate) struct Reads {
    running: Vec<(String, Generator)>,
}

/// The name of a kind.
pub(crate) fn kind(depth: u64, filtered: bool) -> String {
    format!("page {depth}{}", if filtered { ", one type" } else { "" })
}

impl Reads {
    /// Starts reading the inbox of `organization`, as often as `load` says and for as long. A page that the inbox does
    /// not have is not read.
    pub(crate) async fn start(
        control: &ControlClient,
        address: &Address,
        organization: &Organization,
        load: &Load,
    ) -> anyhow::Result<Self> {
        let mut paths = Vec::new();
        for (depth, filtered) in DEPTHS.into_iter().flat_map(|depth| [(depth, false), (depth, true)]) {
            let filter = if filtered { format!("&event_type={EVENT_TYPE}") } else { String::new() };
            let skipped = (depth - 1) * PAGE_EVENTS;
            match inbox_reader::cursor_after(control, &organization.key, &filter, skipped).await? {
                Some(cursor) => {
                    let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
                    paths.push((kind(depth, filtered), format!("/v1/inbox?limit={PAGE_EVENTS}{filter}{cursor}")));
                }
                None => eprintln!("the inbox has no {}: it is not read", kind(depth, filtered)),
            }
        }
        let mut running = Vec::new();
        let kinds = paths.len() as u64;
        for (index, (kind, path)) in (0..).zip(paths) {
            let per_second = (load.reads_per_second + index) / kinds;
            let pace = Pace::Open(Schedule::new(per_second, load.pace.measured_from(), load.measured));
            let requests = Requests::reads(address, organization, &path);
            let load = reading(pace, load);
            running.push((kind, Generator::start(load, vec![address.authority.clone()], requests, None).await?));
        }
        Ok(Self { running })
    }

    /// Stops early.
    pub(crate) fn stop(&self) {
        self.running.iter().for_each(|(_, generator)| generator.stop());
    }

    /// Waits for the last replies.
    pub(crate) fn finish(self) -> anyhow::Result<Vec<ReadFigures>> {
        let figures = |(kind, generator): (String, Generator)| {
            let recorder = generator.into_recorder()?;
            let failed = recorder.measured.iter().filter(|(outcome, _)| **outcome != RequestOutcome::Accepted);
            let errors = failed.map(|(_, count)| count).sum();
            Ok(ReadFigures { kind, errors, latency: Latency::of(&recorder.latency) })
        };
        self.running.into_iter().map(figures).collect()
    }
}

fn reading(pace: Pace, beside: &Load) -> Load {
    Load {
        pace,
        connections: CONNECTIONS,
        client_threads: 1,
        payload_bytes: PayloadBytes::exactly(0),
        event_types: 1,
        batch_events: 1,
        organizations: 1,
        shares: Shares::Even,
        keyed: false,
        reads_per_second: 0,
        preload_events: 0,
        ..*beside
    }
}

/// Checks every kind: the slowest, and the one with most errors.
pub(crate) fn check(reads: &[ReadFigures], thresholds: &Thresholds) -> Vec<Check> {
    // A kind that was never read has no number, and is the worst.
    let worst = |figure: fn(&ReadFigures) -> f64| reads.iter().map(figure).max_by(f64::total_cmp);
    type Figure = fn(&ReadFigures) -> f64;
    let bars: [(_, _, Figure); 2] = [
        ("p95 of the slowest reads", thresholds.read_p95_ms, |read| read.latency.p95_ms),
        ("p99 of the slowest reads", thresholds.read_p99_ms, |read| read.latency.p99_ms),
    ];
    let slow = bars
        .into_iter()
        .filter_map(|(name, threshold, figure)| Some(Check::at_most(name, threshold?, worst(figure), "ms")));
    let failed = worst(|read| read.errors as f64 * 100.0 / read.latency.count.max(1) as f64);
    let errors =
        failed.map(|percent| Check::at_most("errors of reads", thresholds.max_error_percent, Some(percent), "%"));
    slow.chain(errors).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn a_kind_that_was_never_read_misses_its_threshold() {
        let read = |depth, latency| ReadFigures { kind: kind(depth, false), errors: 0, latency };
        let fast = Latency { count: 1, p95_ms: 1.0, p99_ms: 1.0, ..Latency::default() };
        let thresholds = Scenario::Mixed.thresholds();
        let passed = |reads: &[ReadFigures]| check(reads, &thresholds).iter().all(|check| check.passed);
        assert!(passed(&[read(1, fast), read(10, fast)]));
        assert!(!passed(&[read(1, fast), read(10, Latency::default())]));
    }
}
