//! Median, lowest and highest of several runs. Pure.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub median: f64,
    pub lowest: f64,
    pub highest: f64,
}

impl Spread {
    /// Of at least one figure; of none it is not a number.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |end: Option<&f64>| end.copied().unwrap_or(f64::NAN);
        let middle = (sorted.get(sorted.len().saturating_sub(1) / 2), sorted.get(sorted.len() / 2));
        let median = match middle {
            (Some(low), Some(high)) => (low + high) / 2.0,
            _ => f64::NAN,
        };
        Self { median, lowest: at(sorted.first()), highest: at(sorted.last()) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.median >= 1_000.0 { 0 } else { 1 };
        let text = if self.lowest.total_cmp(&self.highest).is_eq() {
            format!("{:.digits$}", self.median)
        } else {
            format!("{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.lowest, self.highest)
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_median_and_both_ends() {
        assert_eq!(Spread::of([58.26, 61.0, 57.5]).to_string(), "58.3 (57.5-61.0)");
        assert_eq!(Spread::of([14_000.4, 13_000.0]).to_string(), "13500 (13000-14000)");
        assert_eq!(Spread::of([7.0]).to_string(), "7.0");
        assert!(Spread::of([]).median.is_nan());
    }
}
