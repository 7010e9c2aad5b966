//! Compares the results of two commits: what changed by more than the noise. Pure, but for the printing.

use std::path::{Path, PathBuf};

use loadkit::Failure;

use crate::results::{FOLDER, ResultFigure, Results};

/// Changes up to this share are noise.
const NOISE: f64 = 0.05;

/// Prints what changed from `before` to `after`: paths, or commits whose results are kept. Returns whether nothing got
/// worse.
pub(crate) fn run(before: &str, after: &str) -> Result<bool, Failure> {
    let (before, after) = (Results::read(&find(before))?, Results::read(&find(after))?);
    let mut nothing_worse = true;
    let mut compared = 0;
    for figure in &after.figures {
        let Some(earlier) = before.figures.iter().find(|earlier| earlier.is_same(figure)) else { continue };
        compared += 1;
        let change = change(earlier, figure);
        if let Some(verdict) = change.verdict() {
            nothing_worse &= verdict != "worse";
            println!(
                "{verdict}: {} {}: {} to {} {} ({:+.0} %)",
                figure.id,
                figure.what,
                earlier.product,
                figure.product,
                figure.unit,
                change.share * 100.0
            );
        }
    }
    if compared == 0 {
        return Err(Failure::Usage("the two have no figure in common".to_owned()));
    }
    let percent = NOISE * 100.0;
    println!("{compared} figures compared; changes up to {percent:.0} %, or within the spread of both, are not named");
    Ok(nothing_worse)
}

/// A path, or the start of a commit in the folder of the results.
pub(crate) fn find(name: &str) -> PathBuf {
    if Path::new(name).is_file() {
        return PathBuf::from(name);
    }
    let entries = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let short = name.get(..10).unwrap_or(name);
    entries
        .map(|entry| entry.path())
        .find(|path| path.file_name().and_then(|file| file.to_str()).is_some_and(|file| file.starts_with(short)))
        .unwrap_or_else(|| PathBuf::from(name))
}

struct Change {
    /// Of the median: 0.1 is a tenth more.
    share: f64,
    is_more_better: bool,
    /// The runs of one side reach into those of the other.
    overlaps: bool,
}

fn change(before: &ResultFigure, after: &ResultFigure) -> Change {
    let (old, new) = (before.product, after.product);
    Change {
        share: new.median / old.median - 1.0,
        is_more_better: after.target.is_more_better(),
        // Single runs have no spread to overlap.
        overlaps: new.lowest < new.highest && new.lowest <= old.highest && old.lowest <= new.highest,
    }
}

impl Change {
    /// None for a change that may be noise.
    fn verdict(&self) -> Option<&'static str> {
        let beyond_noise = self.share.abs() > NOISE && !self.overlaps;
        let is_better = (self.share > 0.0) == self.is_more_better;
        beyond_noise.then_some(if is_better { "better" } else { "worse" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Target;
    use crate::spread::Spread;

    fn verdict(before: [f64; 3], after: [f64; 3], target: Target) -> Option<&'static str> {
        let figure = |runs: [f64; 3]| ResultFigure::new("S1", "accepted", "/s", Spread::of(runs), None, target);
        change(&figure(before), &figure(after)).verdict()
    }

    #[test]
    fn only_changes_beyond_noise_and_spread_are_named() {
        let more = Target::at_least(0.0);
        assert_eq!(verdict([100.0, 100.0, 100.0], [104.0, 104.0, 104.0], more), None);
        assert_eq!(verdict([100.0, 100.0, 100.0], [90.0, 91.0, 90.0], more), Some("worse"));
        assert_eq!(verdict([100.0, 101.0, 99.0], [120.0, 121.0, 122.0], more), Some("better"));
        assert_eq!(verdict([80.0, 100.0, 120.0], [85.0, 110.0, 130.0], more), None, "within the spread");
        assert_eq!(verdict([10.0, 10.0, 10.0], [12.0, 12.5, 13.0], Target::at_most(9.0)), Some("worse"));
    }
}
