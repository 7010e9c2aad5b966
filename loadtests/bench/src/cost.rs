//! The CPU of an event by component, at several rates, of the product and of the bare pipeline in turns, on one system
//! that this command starts. CPU is the least noisy figure: it decides how much a machine carries.

use std::collections::BTreeMap;
use std::path::Path;

use loadkit::{Failure, Role, RunEnvironment};
use serde::Serialize;

use crate::figures::Figures;
use crate::report;
use crate::scenario::{Load, Pace};
use crate::spread::Spread;
use crate::turns::{TurnOptions, Turns};

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
pub(crate) struct Side {
    /// Microseconds of CPU of an event by component, without the generator.
    pub cpu_us: BTreeMap<String, Spread>,
    pub total_us: Spread,
    pub accepted_per_second: Spread,
    pub p95_ms: Spread,
    pub p99_ms: Spread,
    pub visible_p95_ms: Option<Spread>,
    runs: Vec<Figures>,
}

impl Side {
    pub(crate) fn new(runs: Vec<Figures>) -> Self {
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

    /// Size of a payload; of several sizes, the middle one.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.runs.first().map_or(0, |run| run.load.payload_bytes.median())
    }
}

/// Runs the product, and the bare pipeline if it is asked for, at each of `loads`, prints the table and writes the
/// report into `folder`. Returns whether every run passed its checks.
pub(crate) async fn run(
    options: &TurnOptions,
    loads: &[Load],
    with_bare: bool,
    folder: &Path,
) -> Result<bool, Failure> {
    let environment = RunEnvironment::detect();
    let first = loads.first().ok_or_else(|| Failure::Usage("--rates must name a rate".to_owned()))?;
    let mut turns = Turns::start(options, first, folder).await?;
    let measured = measure(&mut turns, loads, with_bare).await;
    let passed = turns.all_passed;
    turns.system.stop().await;
    let rates = measured?;
    rates.iter().for_each(|rate| print!("{}", table(rate)));
    report::write_json(folder, &CostReport { environment, rates })?;
    println!("report in {}", folder.display());
    Ok(passed)
}

async fn measure(turns: &mut Turns<'_>, loads: &[Load], with_bare: bool) -> Result<Vec<Rate>, Failure> {
    let pipeline = with_bare.then(|| turns.pipeline());
    let mut rates = Vec::new();
    for load in loads {
        let name = match load.pace {
            Pace::Open(schedule) => format!("{}-per-second", schedule.peak()),
            Pace::Closed { .. } => "closed".to_owned(),
        };
        let (products, bares) = turns.run(&name, &Role::ALL, pipeline.as_ref(), *load).await?;
        rates.push(Rate {
            per_second: products.first().and_then(|run| run.load.rate_per_second),
            product: Side::new(products),
            bare: with_bare.then(|| Side::new(bares)),
        });
    }
    Ok(rates)
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
