//! Recorded counts of instructions, and what a new count means. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, bail};

/// A count may differ from the recorded one by so much, percent.
pub const BOUND_PERCENT: u32 = 3;

/// What the comparison with a recorded count says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Within the bound.
    Same,
    /// More than the bound above: the path became more expensive.
    Rose,
    /// More than the bound below: the record is out of date, and would hide as large a rise.
    Fell,
    /// There is no recorded count.
    New,
}

/// Counts by name of the path.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// Reads lines of a name and a count. Empty lines and comments (`#`) are skipped.
    ///
    /// # Errors
    /// When a line is anything else, or a name comes twice.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut counts = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, count) =
                line.split_once(char::is_whitespace).with_context(|| format!("no count in {line:?}"))?;
            let count = count.trim().parse().with_context(|| format!("no number in {line:?}"))?;
            if counts.0.insert(name.to_owned(), count).is_some() {
                bail!("{name} has two counts");
            }
        }
        Ok(counts)
    }

    /// Sets the count of a path.
    pub fn set(&mut self, name: &str, count: u64) {
        self.0.insert(name.to_owned(), count);
    }

    /// The count of a path, if there is one.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// As [`Self::parse`] reads it, after `header`.
    pub fn to_text(&self, header: &str) -> String {
        self.0.iter().fold(header.to_owned(), |mut text, (name, count)| {
            // Writing into a string does not fail.
            writeln!(text, "{name} {count}").ok();
            text
        })
    }
}

/// By how much the new count is above the recorded one, percent.
pub fn change_percent(recorded: u64, counted: u64) -> f64 {
    (counted as f64 / recorded.max(1) as f64 - 1.0) * 100.0
}

/// Compares a count with the recorded one.
pub fn compare(recorded: Option<u64>, counted: u64) -> Verdict {
    let Some(recorded) = recorded.map(u128::from) else { return Verdict::New };
    // In whole numbers: as fractions, a count at the bound may be on either side of it.
    let share = |percent: u32| recorded * u128::from(percent);
    match u128::from(counted) * 100 {
        counted if counted > share(100 + BOUND_PERCENT) => Verdict::Rose,
        counted if counted < share(100 - BOUND_PERCENT) => Verdict::Fell,
        _ => Verdict::Same,
    }
}

/// The number of instructions in what callgrind prints at its end.
pub fn collected(output: &str) -> Option<u64> {
    let line = output.lines().find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_three_percent_is_a_rise_or_a_fall() {
        let compared: Vec<Verdict> =
            [10_301, 10_300, 10_000, 9_700, 9_699].map(|counted| compare(Some(10_000), counted)).to_vec();
        assert_eq!(compared, [Verdict::Rose, Verdict::Same, Verdict::Same, Verdict::Same, Verdict::Fell]);
        assert_eq!(compare(None, 10_000), Verdict::New);
    }

    #[test]
    fn counts_are_read_as_they_were_written() {
        let mut counts = Counts::default();
        counts.set("event", 12_345);
        counts.set("batch", 1_000_000);
        assert_eq!(Counts::parse(&counts.to_text("# What\n\n")).unwrap(), counts);
        assert_eq!((counts.get("event"), counts.get("other")), (Some(12_345), None));
        for wrong in ["event", "event many", "event 1\nevent 1"] {
            assert!(Counts::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_count_is_found_in_the_output_of_callgrind() {
        let output = "==7== Events    : Ir\n==7== Collected : 1234567\n==7== \n==7== I   refs:      1,234,567\n";
        assert_eq!(collected(output), Some(1_234_567));
        assert_eq!(collected("valgrind: failed"), None);
    }
}
