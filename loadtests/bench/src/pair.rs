//! Runs product and bare loop in turns, A B A B A B, and reports the ratio of their medians.
//!
//! A single run of either side is in `product` and `bare`.

use std::path::Path;

use anyhow::Context;
use loadkit::{Failure, RunEnvironment};
use serde::Serialize;

use crate::bare::{self, Loop};
use crate::figures::Figures;
use crate::product;
use crate::report;
use crate::scenario::{Compared, Load, Thresholds};
use crate::target::Target;

#[derive(Serialize)]
struct PairReport {
    name: String,
    environment: RunEnvironment,
    unit: &'static str,
    product: Side,
    bare: Side,
    /// Median of the product to median of the bare loop.
    ratio: f64,
    threshold: &'static str,
    /// Whether the threshold was met and every run passed its own checks.
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
        let mut figures: Vec<f64> = runs.iter().map(|run| figure(compared, run)).collect();
        figures.sort_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
        Self { median: median(&figures), lowest: at(0), highest: at(figures.len().saturating_sub(1)), runs }
    }
}

/// The figure that is compared.
fn figure(compared: Compared, figures: &Figures) -> f64 {
    match compared {
        Compared::S1 | Compared::S9 => figures.accepted_per_second,
        Compared::S2 => figures.latency.p95_ms,
    }
}

/// The middle of sorted figures, or the mean of the middle two.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    match (sorted.get(sorted.len().saturating_sub(1) / 2), sorted.get(sorted.len() / 2)) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => f64::NAN,
    }
}

/// What a comparison needs.
pub(crate) struct Pair {
    pub compared: Compared,
    /// Number of runs of each side.
    pub rounds: usize,
    /// The load of every run.
    pub load: Load,
    pub bare: Loop,
    /// Worker threads of the bare loop.
    pub server_threads: usize,
    /// Options of the product's runs.
    pub options: product::Options,
}

/// Runs both in turns and writes the report into `folder`. Returns whether the threshold was met.
pub(crate) async fn run(target: &Target, pair: &Pair, folder: &Path) -> Result<bool, Failure> {
    let environment = RunEnvironment::detect();
    let (mut products, mut bares) = (Vec::new(), Vec::new());
    let mut all_passed = true;
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    for round in 1..=pair.rounds {
        eprintln!("round {round} of {}: product", pair.rounds);
        let product = product::run(target, pair.load, &pair.options).await?;
        eprintln!("round {round} of {}: {}", pair.rounds, pair.bare.name());
        let bare = bare::run(&pair.bare, pair.load, &Thresholds::none(), pair.server_threads).await?;
        all_passed &= product.passed && bare.passed;
        for (side, report) in [("product", &product), ("bare", &bare)] {
            report::write_series(folder, &format!("series-{side}-{round}.csv"), &report.rows)?;
            print!("{}", report::summary(report));
        }
        products.push(product.figures);
        bares.push(bare.figures);
    }
    let (product, bare) = (Side::new(pair.compared, products), Side::new(pair.compared, bares));
    let ratio = product.median / bare.median;
    let (threshold, is_met) = pair.compared.check_ratio(ratio);
    let unit = pair.compared.unit();
    println!("product {:.2} {unit} ({:.2} to {:.2})", product.median, product.lowest, product.highest);
    println!("{} {:.2} {unit} ({:.2} to {:.2})", pair.bare.name(), bare.median, bare.lowest, bare.highest);
    println!(
        "ratio {ratio:.3} (threshold: {threshold}){}",
        if all_passed { "" } else { "; a run failed its own checks" }
    );
    let passed = is_met && all_passed;
    let report = PairReport {
        name: pair.compared.name().to_owned(),
        environment,
        unit,
        product,
        bare,
        ratio,
        threshold,
        passed,
    };
    report::write_json(folder, &report)?;
    println!("report in {}", folder.display());
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_of_the_figures() {
        assert!((median(&[1.0, 5.0, 100.0]) - 5.0).abs() < 1e-9);
        assert!((median(&[1.0, 5.0]) - 3.0).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_ratio_meets_the_threshold_of_its_figure() {
        assert!(Compared::S1.check_ratio(0.8).1 && !Compared::S1.check_ratio(0.7).1);
        assert!(Compared::S2.check_ratio(1.1).1 && !Compared::S2.check_ratio(1.3).1);
        assert!(Compared::S9.check_ratio(0.6).1 && !Compared::S9.check_ratio(0.5).1);
        assert!(!Compared::S1.check_ratio(f64::NAN).1 && !Compared::S2.check_ratio(f64::NAN).1);
    }
}
