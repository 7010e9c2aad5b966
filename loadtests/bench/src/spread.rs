//! Median, lowest and highest of several runs. Pure.

use serde::{Deserialize, Deserializer, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    #[serde(deserialize_with = "number")]
    pub median: f64,
    #[serde(deserialize_with = "number")]
    pub lowest: f64,
    #[serde(deserialize_with = "number")]
    pub highest: f64,
}

/// JSON has null for what is not a number, such as the time of a recovery that did not come.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
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

    #[test]
    fn what_is_not_a_number_can_be_read_again() {
        let written = serde_json::to_string(&Spread::of([1.0, f64::NAN, 2.0])).unwrap();
        let read: Spread = serde_json::from_str(&written).unwrap();
        assert_eq!((read.median, read.lowest), (2.0, 1.0));
        assert!(read.highest.is_nan());
    }
}
