//! Reads beside writes (S5), and a view that grows (S19).

use loadkit::{Failure, Role};

use super::{Suite, of, p95_ms};
use crate::control_client::ControlClient;
use crate::figures::Figures;
use crate::reads::{DEPTHS, kind};
use crate::results::Target;
use crate::scenario::{Load, Pace, Scenario, Shape};
use crate::schedule::Schedule;
use crate::spread::Spread;
use crate::{organizations, preload};

/// Events of the smaller inbox of S5, and of the larger one unless an option says so.
const FEW_EVENTS: u64 = 1_000;
const MANY_EVENTS: u64 = 1_000_000;
/// Rows of the full view of S19, unless an option says so.
const FULL_VIEW: u64 = 2_000_000;
/// How much more a full view may cost.
const MOST_RATIO: f64 = 1.1;

impl Suite<'_> {
    /// S5.
    pub(super) async fn reads_beside_writes(&mut self) -> Result<(), Failure> {
        // One more organization each time: its inbox is empty.
        for (further, backlog) in [(1, FEW_EVENTS), (2, self.preloaded_or(MANY_EVENTS))] {
            let measured = self.options.measured;
            let shape = Shape::mixed(Schedule::new(4_000, self.options.ramp, measured));
            let mut load = Load {
                pace: Pace::Open(shape.schedule),
                measured,
                event_types: shape.event_types,
                shares: shape.shares,
                reads_per_second: shape.reads_per_second,
                organizations: self.options.load.organizations + further,
                preload_events: backlog,
                ..self.options.load
            };
            let mut runs = Vec::new();
            for round in 1..=self.options.turns.rounds {
                let name = format!("s5-{backlog}-{round}");
                let thresholds = Scenario::Stress.thresholds();
                runs.push(self.turns.product_within(&name, &Role::ALL, load, thresholds).await?.figures);
                load.preload_events = 0;
            }
            self.add_reads(backlog, &runs);
        }
        Ok(())
    }

    fn add_reads(&mut self, backlog: u64, runs: &[Figures]) {
        let read = |name: &str, figure: fn(&crate::recorder::Latency) -> f64| {
            let of_kind =
                |run: &Figures| run.reads.iter().find(|read| read.kind == name).map(|read| figure(&read.latency));
            let found: Vec<f64> = runs.iter().filter_map(of_kind).collect();
            (!found.is_empty()).then(|| Spread::of(found))
        };
        for (depth, filtered) in DEPTHS.into_iter().flat_map(|depth| [(depth, false), (depth, true)]) {
            let kind = kind(depth, filtered);
            // A small inbox has no page 1,000.
            let (Some(p95), Some(p99)) = (read(&kind, |seen| seen.p95_ms), read(&kind, |seen| seen.p99_ms)) else {
                continue;
            };
            self.add("S5", &format!("read p95, {backlog} events, {kind}"), "ms", p95, None, Target::at_most(5.0));
            self.add("S5", &format!("read p99, {backlog} events, {kind}"), "ms", p99, None, Target::at_most(20.0));
        }
        let first = read(&kind(1, false), |seen| seen.p50_ms);
        let deepest =
            DEPTHS.into_iter().rev().find_map(|depth| Some((depth, read(&kind(depth, false), |seen| seen.p50_ms)?)));
        if let (Some(first), Some((depth, deep))) = (first, deepest) {
            let what = format!("read p50, {backlog} events, page {depth} of page 1");
            let share = Spread::of([deep.median / first.median]);
            self.add("S5", &what, "", share, None, Target::at_most(MOST_RATIO));
        }
        let writes = format!("write p95, {backlog} events in one inbox");
        self.add("S5", &writes, "ms", of(runs, p95_ms), None, Target::default());
    }

    /// S19.
    pub(super) async fn full_view(&mut self) -> Result<(), Failure> {
        let (mut empty, mut full) = (Vec::new(), Vec::new());
        let rows = self.preloaded_or(FULL_VIEW);
        let load = self.open(10_000);
        for round in 1..=self.options.turns.rounds {
            self.turns.system.empty_view().await?;
            empty.push(self.turns.product(&format!("s19-empty-{round}"), &Role::ALL, load).await?.figures);
        }
        let roles = [Role::Ingest, Role::Materializer];
        self.turns.system.run(&roles).await?;
        let target = &self.turns.system.target;
        let control = ControlClient::new(&target.address)?;
        let organizations = organizations::ensure(target, &control, load.organizations, 0).await?.list;
        preload::run(target, &load, &organizations, rows).await?;
        for round in 1..=self.options.turns.rounds {
            full.push(self.turns.product(&format!("s19-{rows}-{round}"), &Role::ALL, load).await?.figures);
        }
        type Figure = fn(&Figures) -> f64;
        let figures: [(_, _, Figure); 2] =
            [("p95 at 10,000/s", "ms", p95_ms), ("CPU of an event at 10,000/s", "us", Figures::cpu_us)];
        for (what, unit, figure) in figures {
            let (without, with) = (of(&empty, figure), of(&full, figure));
            self.add("S19", &format!("{what}, empty view"), unit, without, None, Target::default());
            let most = Target::at_most((without.median * MOST_RATIO * 10.0).round() / 10.0);
            self.add("S19", &format!("{what}, {rows} rows more"), unit, with, None, most);
        }
        Ok(())
    }

    /// The number of events of `--preload-events`, or this one.
    fn preloaded_or(&self, default: u64) -> u64 {
        match self.options.load.preload_events {
            0 => default,
            events => events,
        }
    }
}
