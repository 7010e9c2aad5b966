//! Progress of a long command, on standard error: a bar on a terminal, else a line every few seconds.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Counts things that were done; `done` says what was done with them.
pub(super) struct Progress {
    bar: ProgressBar,
    done: &'static str,
    last_line: Mutex<Instant>,
}

impl Progress {
    /// Nothing is shown before the first [`Progress::show`].
    pub(super) fn new(done: &'static str) -> Result<Self> {
        let template = format!("{{bar:40}} {{pos}} of {{len}} {done}  {{per_sec}}  {{elapsed}} (eta {{eta}})");
        let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(&template)?);
        Ok(Self { bar, done, last_line: Mutex::new(Instant::now()) })
    }

    /// `total` may grow while the command runs.
    pub(super) fn show(&self, count: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(count);
        let mut last_line = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bar.is_hidden() && last_line.elapsed() >= LINE_EVERY {
            *last_line = Instant::now();
            eprintln!("{}", line(count, total, self.done, self.bar.per_sec()));
        }
    }

    /// Writes a line above the bar.
    pub(super) fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn line(count: u64, total: u64, done: &str, per_second: f64) -> String {
    let percent = count.saturating_mul(100).checked_div(total).unwrap_or(100);
    format!("{count} of {total} {done} ({percent} %), {per_second:.0} per second")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_count_share_and_rate() {
        assert_eq!(line(50, 200, "records read", 12.4), "50 of 200 records read (25 %), 12 per second");
        assert_eq!(line(0, 0, "redriven", 0.0), "0 of 0 redriven (100 %), 0 per second");
    }
}
