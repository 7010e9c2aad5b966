//! Product and bare loop in turns, A B A B A B: the ratio of their medians, from one invocation on one machine.
//!
//! What does not live here: how either is run (product, bare).

use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;

use crate::bare::{self, Loop};
use crate::error::Failure;
use crate::figures::Figures;
use crate::machine::{Circumstances, circumstances};
use crate::product;
use crate::report;
use crate::scenario::{Load, Thresholds};
use crate::target::Target;

/// Which target is held against the bare loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compared {
    /// Accepted per second in the closed loop; more is better.
    S1,
    /// p95 at a fixed rate; less is better.
    S2,
}

impl Compared {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::S1 => "s1",
            Self::S2 => "s2",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::S1 => "accepted/s",
            Self::S2 => "ms p95",
        }
    }

    fn figure(self, figures: &Figures) -> f64 {
        match self {
            Self::S1 => figures.accepted_per_second,
            Self::S2 => figures.latency.p95_ms,
        }
    }

    /// The bar for product : bare, and whether `ratio` reaches it.
    fn verdict(self, ratio: f64) -> (&'static str, bool) {
        match self {
            Self::S1 => (">= 0.75", ratio >= 0.75),
            Self::S2 => ("<= 1.2", ratio <= 1.2),
        }
    }
}

#[derive(Serialize)]
struct PairReport {
    name: String,
    circumstances: Circumstances,
    unit: &'static str,
    product: Side,
    bare: Side,
    /// Product to bare, of the medians.
    ratio: f64,
    bar: &'static str,
    /// Whether the bar was reached and every product run stored what it accepted.
    passed: bool,
}

#[derive(Serialize)]
struct Side {
    median: f64,
    lowest: f64,
    highest: f64,
    runs: Vec<Figures>,
}

impl Side {
    fn new(compared: Compared, runs: Vec<Figures>) -> Self {
        let mut figures: Vec<f64> = runs.iter().map(|run| compared.figure(run)).collect();
        figures.sort_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
        Self { median: median(&figures), lowest: at(0), highest: at(figures.len().saturating_sub(1)), runs }
    }
}

/// The middle of sorted figures, or the mean of the middle two.
fn median(sorted: &[f64]) -> f64 {
    match (sorted.get(sorted.len().saturating_sub(1) / 2), sorted.get(sorted.len() / 2)) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => f64::NAN,
    }
}

/// What a comparison needs.
pub struct Pair {
    /// What is compared.
    pub compared: Compared,
    /// Runs of each.
    pub rounds: usize,
    /// The load of every run.
    pub load: Load,
    /// The bare loop.
    pub bare: Loop,
    /// Worker threads of the bare loop.
    pub server_threads: usize,
    /// How the product is run.
    pub options: product::Options,
}

/// Runs both in turns, writes the report into `folder`, and tells whether the bar was reached.
pub async fn run(target: &Target, pair: &Pair, folder: &Path) -> Result<bool, Failure> {
    let circumstances = circumstances();
    let (mut products, mut bares) = (Vec::new(), Vec::new());
    let mut sound = true;
    std::fs::create_dir_all(folder)
        .map_err(|error| anyhow::Error::new(error).context(format!("making {}", folder.display())))?;
    for round in 1..=pair.rounds {
        eprintln!("round {round} of {}: product", pair.rounds);
        let product = product::run(target, pair.load, &pair.options).await?;
        eprintln!("round {round} of {}: {}", pair.rounds, pair.bare.name());
        let bare = bare::run(&pair.bare, pair.load, &Thresholds::none(), pair.server_threads).await?;
        sound &= product.passed && bare.passed;
        for (side, report) in [("product", &product), ("bare", &bare)] {
            report::write_series(folder, &format!("series-{side}-{round}.csv"), &report.rows)?;
            print!("{}", report::summary(report));
        }
        products.push(product.figures);
        bares.push(bare.figures);
    }
    let (product, bare) = (Side::new(pair.compared, products), Side::new(pair.compared, bares));
    let ratio = product.median / bare.median;
    let (bar, reached) = pair.compared.verdict(ratio);
    let unit = pair.compared.unit();
    println!("product {:.2} {unit} ({:.2} to {:.2})", product.median, product.lowest, product.highest);
    println!("{} {:.2} {unit} ({:.2} to {:.2})", pair.bare.name(), bare.median, bare.lowest, bare.highest);
    println!("ratio {ratio:.3} (bar: {bar}){}", if sound { "" } else { "; a run missed a bar of its own" });
    let passed = reached && sound;
    let report =
        PairReport { name: pair.compared.name().to_owned(), circumstances, unit, product, bare, ratio, bar, passed };
    report::write_json(folder, &report)?;
    println!("report in {}", folder.display());
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_and_nothing_has_none() {
        assert!((median(&[1.0, 5.0, 100.0]) - 5.0).abs() < 1e-9);
        assert!((median(&[1.0, 5.0]) - 3.0).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn more_is_better_in_the_closed_loop_and_less_at_a_fixed_rate() {
        assert!(Compared::S1.verdict(0.8).1 && !Compared::S1.verdict(0.7).1);
        assert!(Compared::S2.verdict(1.1).1 && !Compared::S2.verdict(1.3).1);
        assert!(!Compared::S1.verdict(f64::NAN).1 && !Compared::S2.verdict(f64::NAN).1);
    }
}
