//! The report of `deliver`: its runs, their medians, and whether all checks passed.

use loadkit::RunEnvironment;
use serde::Serialize;

use super::Options;
use super::bare::BarePost;
use super::endpoints::{Bad, EndpointOptions};
use super::figures::Deliveries;
use crate::figures::Figures;
use crate::spread::Spread;

/// What bad neighbours, or keyed events, may add to the p95 of the measured webhooks: this much, or this share of it.
const MOST_ADDED_MS: f64 = 5.0;
const MOST_ADDED_SHARE: f64 = 0.1;
/// Least share of the bare client's rate.
pub(crate) const LEAST_RATIO: f64 = 0.3;
/// Requests that may fail.
const MOST_ERRORS_PERCENT: f64 = 1.0;

#[derive(Serialize)]
pub(crate) struct DeliverReport {
    environment: RunEnvironment,
    answer_after_ms: u128,
    endpoints: EndpointOptions,
    bad: Option<Bad>,
    keyed_beside_per_second: Option<u32>,
    pub runs: Vec<Run>,
    pub bare: Vec<BarePost>,
    /// Median of the runs' p95 alone, and with bad endpoints or keyed events beside.
    p95_ms: f64,
    p95_beside_ms: Option<f64>,
    /// Median of the runs' rates, and its share of the bare client's.
    per_second: f64,
    ratio: Option<f64>,
    pub passed: bool,
}

#[derive(Serialize)]
pub(crate) struct Run {
    /// Whether bad endpoints, or keyed events, were beside.
    pub beside: bool,
    pub accept: Figures,
    pub deliveries: Deliveries,
}

impl Run {
    /// Whether nothing is missing, and the whole load was sent and accepted.
    fn is_complete(&self) -> bool {
        let accept = &self.accept;
        self.deliveries.missing == 0 && accept.error_percent <= MOST_ERRORS_PERCENT && accept.stopped.is_none()
    }
}

impl DeliverReport {
    /// Prints the medians, and checks them.
    pub(crate) fn conclude(
        environment: RunEnvironment,
        options: &Options,
        runs: Vec<Run>,
        bare: Vec<BarePost>,
    ) -> Self {
        let p95_ms = of_side(&runs, false, |seen| seen.latency.p95_ms).median;
        let per_second = of_side(&runs, false, |seen| seen.per_second).median;
        let has_beside = runs.iter().any(|run| run.beside);
        let p95_beside_ms = has_beside.then(|| of_side(&runs, true, |seen| seen.latency.p95_ms).median);
        let ratio = (!bare.is_empty()).then(|| per_second / Spread::of(bare.iter().map(|run| run.per_second)).median);
        let mut passed = runs.iter().all(Run::is_complete);
        println!("delivered {per_second:.0}/s, p95 {p95_ms:.2} ms (medians of {})", options.rounds);
        if let Some(with) = p95_beside_ms {
            let most = p95_ms + most_added_ms(p95_ms);
            passed &= with <= most;
            let what = options.bad.map_or("keyed events beside", |_| "bad endpoints of another organization");
            println!("with {what}: p95 {with:.2} ms (threshold: <= {most:.2} ms)");
        }
        if let Some(ratio) = ratio {
            passed &= ratio >= LEAST_RATIO;
            println!("{ratio:.3} of the bare client (threshold: >= {LEAST_RATIO})");
        }
        Self {
            environment,
            answer_after_ms: options.answer_after.as_millis(),
            endpoints: options.endpoints,
            bad: options.bad,
            keyed_beside_per_second: options.keyed_beside_per_second,
            runs,
            bare,
            p95_ms,
            p95_beside_ms,
            per_second,
            ratio,
            passed,
        }
    }

    /// A figure of the runs alone, or of those with something beside.
    pub(crate) fn of_side(&self, beside: bool, figure: impl Fn(&Deliveries) -> f64) -> Spread {
        of_side(&self.runs, beside, figure)
    }

    /// Whether every accepted event arrived. Figures are not checked.
    pub(crate) fn is_complete(&self) -> bool {
        self.runs.iter().all(Run::is_complete)
    }
}

/// How much may be added to this p95.
pub(crate) fn most_added_ms(p95_ms: f64) -> f64 {
    MOST_ADDED_MS.max(p95_ms * MOST_ADDED_SHARE)
}

/// A run that is not complete has no figures.
fn of_side(runs: &[Run], beside: bool, figure: impl Fn(&Deliveries) -> f64) -> Spread {
    let figure = |run: &Run| if run.is_complete() { figure(&run.deliveries) } else { f64::NAN };
    Spread::of(runs.iter().filter(|run| run.beside == beside).map(figure))
}
