//! The CPU of an event by component, at several rates, of the product and of the bare pipeline in turns, on one system
//! that this command starts. CPU is the least noisy figure: it decides how much a machine carries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use loadkit::{Failure, Role, RunEnvironment};
use serde::Serialize;

use crate::bare::{self, Loop, Produce};
use crate::figures::Figures;
use crate::product;
use crate::report;
use crate::scenario::{Load, Pace, Thresholds};
use crate::spread::Spread;
use crate::system::System;

/// How long accepted events may take to be applied after the last reply.
pub(crate) const SETTLE: Duration = Duration::from_secs(120);

/// What is compared.
pub(crate) struct Options {
    pub program: PathBuf,
    /// The load at each rate.
    pub loads: Vec<Load>,
    pub rounds: usize,
    pub with_bare: bool,
    /// Added to the environment of the product.
    pub settings: Vec<(String, String)>,
    pub linger_ms: u32,
    pub zstd: bool,
    /// Worker threads of the bare loop.
    pub server_threads: usize,
    /// Load before the first measured run: a cold JVM takes a multiple of the CPU.
    pub warm_up: Duration,
    /// How long accepted events may take to be applied after the last reply.
    pub settle: Duration,
}

#[derive(Serialize)]
struct CostReport {
    environment: RunEnvironment,
    rates: Vec<Rate>,
}

/// Both sides at one rate.
#[derive(Serialize)]
struct Rate {
    /// Requests per second; none in the closed loop.
    per_second: Option<u64>,
    product: Side,
    bare: Option<Side>,
}

#[derive(Serialize)]
struct Side {
    /// Microseconds of CPU of an event by component, without the generator.
    cpu_us: BTreeMap<String, Spread>,
    total_us: Spread,
    accepted_per_second: Spread,
    p95_ms: Spread,
    p99_ms: Spread,
    visible_p95_ms: Option<Spread>,
    runs: Vec<Figures>,
}

impl Side {
    fn new(runs: Vec<Figures>) -> Self {
        let names: std::collections::BTreeSet<&String> =
            runs.iter().flat_map(|run| run.cpu_us_per_event.keys()).filter(|name| *name != "generator").collect();
        let of =
            |name: &String| Spread::of(runs.iter().map(|run| run.cpu_us_per_event.get(name).copied().unwrap_or(0.0)));
        let cpu_us = names.into_iter().map(|name| (name.clone(), of(name))).collect();
        let seen: Vec<f64> =
            runs.iter().filter_map(|run| run.visibility.as_ref()).map(|seen| seen.latency.p95_ms).collect();
        Self {
            cpu_us,
            total_us: Spread::of(runs.iter().map(Figures::cpu_us)),
            accepted_per_second: Spread::of(runs.iter().map(|run| run.accepted_per_second)),
            p95_ms: Spread::of(runs.iter().map(|run| run.latency.p95_ms)),
            p99_ms: Spread::of(runs.iter().map(|run| run.latency.p99_ms)),
            visible_p95_ms: (!seen.is_empty()).then(|| Spread::of(seen)),
            runs,
        }
    }
}

/// Runs everything, prints the table and writes the report into `folder`. Returns whether every run passed its checks.
pub(crate) async fn run(options: &Options, folder: &Path) -> Result<bool, Failure> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let environment = RunEnvironment::detect();
    let mut system = System::start(&options.program, &options.settings).await?;
    let measured = measure(&mut system, options).await;
    system.stop().await;
    let (rates, passed) = measured?;
    rates.iter().for_each(|rate| print!("{}", table(rate)));
    report::write_json(folder, &CostReport { environment, rates })?;
    println!("report in {}", folder.display());
    Ok(passed)
}

async fn measure(system: &mut System, options: &Options) -> Result<(Vec<Rate>, bool), Failure> {
    let bare = Loop::Pipeline {
        produce: Produce {
            brokers: system.target.kafka_brokers.clone().unwrap_or_default(),
            linger_ms: options.linger_ms,
            zstd: options.zstd,
        },
        database_url: system.target.database_url.clone().unwrap_or_default(),
    };
    let (mut rates, mut passed) = (Vec::new(), true);
    if let Some(load) = options.loads.first() {
        eprintln!("warming up");
        let seconds = Pace::Closed { warm_up: Duration::ZERO, measured: options.warm_up };
        let load = Load { pace: seconds, measured: options.warm_up, connections: 64, ..*load };
        run_product(system, options, load).await?;
    }
    for load in &options.loads {
        let (mut products, mut bares) = (Vec::new(), Vec::new());
        for round in 1..=options.rounds {
            eprintln!("{}, round {round} of {}: product", rate_name(load), options.rounds);
            let report = run_product(system, options, *load).await?;
            print!("{}", report::summary(&report));
            passed &= report.passed;
            products.push(report.figures);
            if options.with_bare {
                eprintln!("{}, round {round} of {}: bare pipeline", rate_name(load), options.rounds);
                let report = bare::run(&bare, *load, &Thresholds::none(), options.server_threads).await?;
                print!("{}", report::summary(&report));
                passed &= report.passed;
                bares.push(report.figures);
            }
        }
        rates.push(Rate {
            per_second: products.first().and_then(|run| run.load.rate_per_second),
            product: Side::new(products),
            bare: options.with_bare.then(|| Side::new(bares)),
        });
    }
    Ok((rates, passed))
}

/// One run with all roles. They are stopped afterwards, because their polling costs the broker.
async fn run_product(system: &mut System, options: &Options, load: Load) -> Result<report::Report, Failure> {
    system.run(&Role::ALL).await?;
    let options = product::Options {
        name: rate_name(&load),
        thresholds: Thresholds::none(),
        limit_per_minute: 0,
        settle: options.settle,
        components: system.components(),
    };
    let report = product::run(&system.target, load, &options).await?;
    system.keep_only(&[]).await?;
    Ok(report)
}

fn rate_name(load: &Load) -> String {
    match load.pace {
        Pace::Open(schedule) => format!("{}/s", schedule.peak()),
        Pace::Closed { .. } => format!("closed, {} in flight", load.connections),
    }
}

fn table(rate: &Rate) -> String {
    let name = rate.per_second.map_or_else(|| "closed".to_owned(), |rate| format!("{rate}/s"));
    let mut rows: Vec<(String, Option<Spread>, Option<Spread>)> = Vec::new();
    let bare = rate.bare.as_ref();
    // The server and the writer of the bare pipeline are what ingest and materializer are in the product.
    let pairs = [
        ("ingest", "server"),
        ("materializer", "writer"),
        ("dispatcher", ""),
        ("kafka", "kafka"),
        ("postgres", "postgres"),
    ];
    for (product, other) in pairs {
        let other = bare.and_then(|side| side.cpu_us.get(other)).copied();
        rows.push((format!("{product}, us"), rate.product.cpu_us.get(product).copied(), other));
    }
    let mut both = |name: &str, of: &dyn Fn(&Side) -> Option<Spread>| {
        rows.push((name.to_owned(), of(&rate.product), bare.and_then(of)));
    };
    both("all, us", &|side| Some(side.total_us));
    both("accepted/s", &|side| Some(side.accepted_per_second));
    both("p95, ms", &|side| Some(side.p95_ms));
    both("p99, ms", &|side| Some(side.p99_ms));
    both("visible p95, ms", &|side| side.visible_p95_ms);
    let mut text = format!("{name:<18}{:>26}{:>26}{:>8}\n", "product", "bare pipeline", "ratio");
    for (name, product, bare) in rows {
        let ratio =
            product.zip(bare).map_or_else(String::new, |(ours, bare)| format!("{:.2}", ours.median / bare.median));
        let cell = |spread: Option<Spread>| spread.map_or_else(|| "-".to_owned(), |spread| spread.to_string());
        text.push_str(&format!("{name:<18}{:>26}{:>26}{ratio:>8}\n", cell(product), cell(bare)));
    }
    text
}
