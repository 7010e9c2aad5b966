//! `limit-cost`: what rate limits cost. The same load on two processes of `ingest`, with limits on and off, in turns.
//!
//! Both use Kafka, PostgreSQL and the materializer of one running system.

use std::path::{Path, PathBuf};

use anyhow::Context;
use loadkit::{Failure, RunEnvironment};
use serde::Serialize;

use crate::figures::{COMPLETE_SCHEDULE, Figures};
use crate::instance::Instance;
use crate::product::{self, Options};
use crate::report::{self, Report};
use crate::scenario::{Check, Load};
use crate::spread::Spread;
use crate::target::Target;

/// The most that limits may add to the CPU of ingest and PostgreSQL, in percent.
const MOST_PERCENT: f64 = 3.0;

/// What the comparison needs.
pub(crate) struct Pair {
    /// The program whose role ingest is started.
    pub program: PathBuf,
    /// Limit of each organization, requests a minute.
    pub limit_per_minute: u32,
    /// Number of runs of each side.
    pub rounds: usize,
    pub load: Load,
    pub options: Options,
}

#[derive(Serialize)]
struct CostReport {
    environment: RunEnvironment,
    limit_per_minute: u32,
    on: Side,
    off: Side,
    /// CPU of ingest and PostgreSQL with limits, compared with it without, in percent.
    more_cpu_percent: f64,
    /// Whether that is at most what is allowed, and every run passed its own checks.
    passed: bool,
}

/// Medians of one side's runs.
#[derive(Serialize)]
struct Side {
    /// CPU of an event in microseconds.
    ingest_us: f64,
    postgres_us: f64,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    runs: Vec<Figures>,
}

impl Side {
    fn new(runs: Vec<Figures>) -> Self {
        let of = |figure: &dyn Fn(&Figures) -> f64| Spread::of(runs.iter().map(figure)).median;
        Self {
            ingest_us: of(&|run| run.cpu_us_of("triggers")),
            postgres_us: of(&|run| run.cpu_us_of("postgres")),
            p50_ms: of(&|run| run.latency.p50_ms),
            p95_ms: of(&|run| run.latency.p95_ms),
            p99_ms: of(&|run| run.latency.p99_ms),
            runs,
        }
    }

    fn cpu_us(&self) -> f64 {
        self.ingest_us + self.postgres_us
    }

    fn line(&self, name: &str) -> String {
        format!(
            "limits {name}: ingest {:.1} us, postgres {:.1} us of CPU an event; p50 {:.2}, p95 {:.2}, p99 {:.2} ms",
            self.ingest_us, self.postgres_us, self.p50_ms, self.p95_ms, self.p99_ms
        )
    }
}

/// Runs both in turns and writes the report into `folder`. Returns whether the threshold was met.
pub(crate) async fn run(target: &Target, pair: &Pair, folder: &Path) -> Result<bool, Failure> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let environment = RunEnvironment::detect();
    let (on, off) = (start(target, pair, "on").await?, start(target, pair, "off").await?);
    let (mut runs_on, mut runs_off) = (Vec::new(), Vec::new());
    let mut all_passed = true;
    // Round 0 warms up both and is not counted. The order changes from round to round: a system that has run for longer
    // is faster.
    for round in 0..=pair.rounds {
        let mut sides = [("on", &on, &mut runs_on), ("off", &off, &mut runs_off)];
        if round % 2 == 0 {
            sides.reverse();
        }
        for (name, instance, runs) in sides {
            eprintln!("round {round} of {}: limits {name}", pair.rounds);
            let report = run_side(target, pair, name, instance).await?;
            all_passed &= report.checks.iter().all(|check| check.passed || is_of_warm_up(round, check));
            report::write_series(folder, &format!("series-{name}-{round}.csv"), &report.rows)?;
            print!("{}", report::summary(&report));
            if round > 0 {
                runs.push(report.figures);
            }
        }
    }
    let (on, off) = (Side::new(runs_on), Side::new(runs_off));
    let more_cpu_percent = 100.0 * (on.cpu_us() / off.cpu_us() - 1.0);
    println!("{}\n{}", on.line("on"), off.line("off"));
    println!(
        "limits take {more_cpu_percent:.1} % more CPU of ingest and postgres (threshold: <= {MOST_PERCENT} %){}",
        if all_passed { "" } else { "; a run failed its own checks" }
    );
    let passed = more_cpu_percent <= MOST_PERCENT && all_passed;
    let limit_per_minute = pair.limit_per_minute;
    report::write_json(folder, &CostReport { environment, limit_per_minute, on, off, more_cpu_percent, passed })?;
    println!("report in {}", folder.display());
    Ok(passed)
}

/// Whether a missed threshold says only that the system was cold.
fn is_of_warm_up(round: usize, check: &Check) -> bool {
    round == 0 && check.name == COMPLETE_SCHEDULE
}

async fn run_side(target: &Target, pair: &Pair, name: &str, instance: &Instance) -> Result<Report, Failure> {
    let options = Options {
        name: format!("limits-{name}"),
        limit_per_minute: pair.limit_per_minute,
        components: pair.options.components.clone(),
        ..pair.options
    };
    // Each process has organizations of its own, which are remembered by its address.
    let data_dir = target.data_dir.join(format!("bench-limits-{name}"));
    let side = Target { address: instance.address.clone(), data_dir, ..target.clone() };
    product::run(&side, pair.load, &options).await
}

async fn start(target: &Target, pair: &Pair, limits: &str) -> anyhow::Result<Instance> {
    Instance::start(target, &pair.program, &[("RATE_LIMITS", limits)]).await
}
