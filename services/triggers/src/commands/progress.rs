//! Progress of a long command on standard error: a bar on a terminal, else a line every few seconds.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Interval of the lines when standard error is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress on standard error. `label` follows the counts: "5 of 10 records read".
pub(super) struct ProgressDisplay {
    bar: ProgressBar,
    label: &'static str,
    last_line: Mutex<Instant>,
}

impl ProgressDisplay {
    /// Shows nothing before the first [`ProgressDisplay::show`].
    pub(super) fn new(label: &'static str) -> Result<Self> {
        let template = format!("{{bar:40}} {{pos}} of {{len}} {label}  {{per_sec}}  {{elapsed}} (eta {{eta}})");
        let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(&template)?);
        Ok(Self { bar, label, last_line: Mutex::new(Instant::now()) })
    }

    /// `total` may grow while the command runs.
    pub(super) fn show(&self, count: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(count);
        let mut last_line = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bar.is_hidden() && last_line.elapsed() >= LINE_EVERY {
            *last_line = Instant::now();
            eprintln!("{}", line(count, total, self.label, self.bar.per_sec()));
        }
    }

    /// Writes a line above the bar.
    pub(super) fn print_line(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn line(count: u64, total: u64, label: &str, per_second: f64) -> String {
    let percent = count.saturating_mul(100).checked_div(total).unwrap_or(100);
    format!("{count} of {total} {label} ({percent} %), {per_second:.0} per second")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_progress_line_has_count_percentage_and_rate() {
        assert_eq!(line(50, 200, "records read", 12.4), "50 of 200 records read (25 %), 12 per second");
        assert_eq!(line(0, 0, "redriven", 0.0), "0 of 0 redriven (100 %), 0 per second");
    }
}
