//! The results of a suite: one line per figure, with the product, the bare loop, their ratio and the target. They are
//! kept per commit, compared, and written as a document.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use loadkit::RunEnvironment;
use serde::{Deserialize, Serialize};

use crate::spread::Spread;

/// Folder of the results of each commit, relative to the folder of the project.
pub(crate) const FOLDER: &str = "loadtests/results";

/// All figures of one invocation.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub environment: RunEnvironment,
    pub figures: Vec<ResultFigure>,
}

/// One figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ResultFigure {
    /// As in the table of targets: S1, S15.
    pub id: String,
    pub what: String,
    pub unit: String,
    pub product: Spread,
    pub bare: Option<Spread>,
    /// Median of the product to median of the bare loop.
    pub ratio: Option<f64>,
    pub target: Target,
    pub reached: bool,
}

/// What a figure, or its ratio, must reach.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Target {
    pub at_least: Option<f64>,
    pub at_most: Option<f64>,
    pub ratio_at_least: Option<f64>,
    pub ratio_at_most: Option<f64>,
}

impl Target {
    pub(crate) fn at_least(value: f64) -> Self {
        Self { at_least: Some(value), ..Self::default() }
    }

    pub(crate) fn at_most(value: f64) -> Self {
        Self { at_most: Some(value), ..Self::default() }
    }

    pub(crate) fn ratio_at_least(self, ratio: f64) -> Self {
        Self { ratio_at_least: Some(ratio), ..self }
    }

    pub(crate) fn ratio_at_most(self, ratio: f64) -> Self {
        Self { ratio_at_most: Some(ratio), ..self }
    }

    /// Whether a larger figure is better.
    pub(crate) fn is_more_better(&self) -> bool {
        self.at_least.is_some() || self.ratio_at_least.is_some()
    }

    fn is_reached(&self, figure: f64, ratio: Option<f64>) -> bool {
        self.at_least.is_none_or(|least| figure >= least)
            && self.at_most.is_none_or(|most| figure <= most)
            && self.ratio_at_least.is_none_or(|least| ratio.is_some_and(|ratio| ratio >= least))
            && self.ratio_at_most.is_none_or(|most| ratio.is_some_and(|ratio| ratio <= most))
    }

    pub(crate) fn text(&self, unit: &str) -> String {
        let figure = [(">=", self.at_least), ("<=", self.at_most)];
        let ratio = [("ratio >=", self.ratio_at_least), ("ratio <=", self.ratio_at_most)];
        let figure = figure.into_iter().filter_map(|(sign, value)| Some(format!("{sign} {} {unit}", value?)));
        let ratio = ratio.into_iter().filter_map(|(sign, value)| Some(format!("{sign} {}", value?)));
        let parts: Vec<String> = figure.chain(ratio).collect();
        if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
    }
}

impl ResultFigure {
    pub(crate) fn new(id: &str, what: &str, unit: &str, product: Spread, bare: Option<Spread>, target: Target) -> Self {
        let ratio = bare.map(|bare| product.median / bare.median);
        Self {
            id: id.to_owned(),
            what: what.to_owned(),
            unit: unit.to_owned(),
            product,
            bare,
            ratio,
            target,
            reached: target.is_reached(product.median, ratio),
        }
    }
}

impl Results {
    /// Where the results of this commit are kept.
    fn path(&self, folder: &Path) -> PathBuf {
        let commit = self.environment.commit.get(..10).unwrap_or("unknown");
        let changed = if self.environment.uncommitted_changes { "-changed" } else { "" };
        folder.join(format!("{commit}{changed}.json"))
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{} has no results of `bench all`", path.display()))
    }

    /// Writes them for this commit into `folder`. Figures of an earlier invocation at this commit are kept unless they
    /// were measured again.
    pub(crate) fn write(&self, folder: &Path) -> Result<PathBuf> {
        let path = self.path(folder);
        let mut figures = Self::read(&path).map(|earlier| earlier.figures).unwrap_or_default();
        figures.retain(|earlier| !self.figures.iter().any(|figure| figure.is_same(earlier)));
        figures.extend(self.figures.iter().cloned());
        figures.sort_by_key(ResultFigure::order);
        let merged = Self { environment: self.environment.clone(), figures };
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let mut text = serde_json::to_string_pretty(&merged).context("writing the results")?;
        text.push('\n');
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// One line per figure, for the terminal.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for figure in &self.figures {
            text.push_str(&figure.line());
            text.push('\n');
        }
        text
    }
}

impl ResultFigure {
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.id == other.id && self.what == other.what
    }

    /// S2 before S10, and S1 before S1b.
    fn order(&self) -> (u32, String, String) {
        let digits: String = self.id.chars().filter(char::is_ascii_digit).collect();
        (digits.parse().unwrap_or(u32::MAX), self.id.clone(), self.what.clone())
    }

    pub(crate) fn line(&self) -> String {
        let bare = self.bare.map_or_else(|| "-".to_owned(), |bare| bare.to_string());
        let ratio = self.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let target = self.target.text(&self.unit);
        let reached = match (target.as_str(), self.reached) {
            ("-", _) => "",
            (_, true) => "reached",
            (_, false) => "MISSED",
        };
        let (id, what, unit, product) = (&self.id, &self.what, &self.unit, self.product);
        format!("{id:<4} {what:<52} {product:>24} {unit:<8} bare {bare:>24}  ratio {ratio:>5}  {reached:<7}  {target}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(id: &str, product: f64, bare: Option<f64>, target: Target) -> ResultFigure {
        let one = |value: f64| Spread::of([value]);
        ResultFigure::new(id, "accepted", "/s", one(product), bare.map(one), target)
    }

    #[test]
    fn a_target_has_a_figure_and_a_ratio() {
        let target = Target::at_least(34_000.0).ratio_at_least(0.75);
        assert!(figure("S1", 35_000.0, Some(40_000.0), target).reached);
        assert!(!figure("S1", 33_000.0, Some(40_000.0), target).reached, "too few");
        assert!(!figure("S1", 35_000.0, Some(50_000.0), target).reached, "too low a ratio");
        assert!(!figure("S1", 35_000.0, None, target).reached, "no ratio");
        assert!(figure("S2", 9.0, None, Target::at_most(10.0)).reached);
        assert!(!figure("S2", f64::NAN, None, Target::at_most(10.0)).reached, "not measured");
        assert_eq!(target.text("/s"), ">= 34000 /s, ratio >= 0.75");
        let line = |target| figure("S1", 35_000.0, Some(40_000.0), target).line();
        assert!(line(target).contains("reached") && !line(Target::default()).contains("reached"), "no target");
    }

    #[test]
    fn figures_are_in_the_order_of_their_numbers() {
        let mut ids: Vec<ResultFigure> =
            ["S10", "S2", "S1b", "S1"].map(|id| figure(id, 1.0, None, Target::default())).into();
        ids.sort_by_key(ResultFigure::order);
        let ids: Vec<String> = ids.into_iter().map(|figure| figure.id).collect();
        assert_eq!(ids, ["S1", "S1b", "S2", "S10"]);
    }
}
