//! Limits the rate of log lines of one kind. Under overload every request would log, and logging would make the
//! overload worse.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Allows a number of lines per second. Meant for a `static`; costs one atomic operation.
pub struct Throttle {
    per_second: u32,
    /// Upper half: the second since the first use of any throttle. Lower half: lines requested in that second.
    window: AtomicU64,
}

impl Throttle {
    /// At most `per_second` lines.
    pub const fn new(per_second: u32) -> Self {
        Self { per_second, window: AtomicU64::new(0) }
    }

    /// `Some` if a line may be written now, with the number of lines suppressed in the last second that had any; `None`
    /// if the line is suppressed.
    pub fn admit(&self) -> Option<u32> {
        self.admit_at(STARTED.elapsed().as_secs())
    }

    fn admit_at(&self, second: u64) -> Option<u32> {
        let tick = |window: u64| if window >> 32 == second & 0xffff_ffff { window + 1 } else { (second << 32) | 1 };
        let before =
            self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| Some(tick(window))).unwrap_or(0);
        let requested = u32::try_from(before & 0xffff_ffff).unwrap_or(u32::MAX);
        if before >> 32 == second & 0xffff_ffff {
            (requested < self.per_second).then_some(0)
        } else {
            Some(requested.saturating_sub(self.per_second))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_over_the_limit_are_counted_for_the_next_second() {
        let throttle = Throttle::new(2);
        let admitted: Vec<Option<u32>> = (0..5).map(|_| throttle.admit_at(7)).collect();
        assert_eq!(admitted, vec![Some(0), Some(0), None, None, None]);
        assert_eq!(throttle.admit_at(9), Some(3));
        assert_eq!(throttle.admit_at(9), Some(0));
        assert_eq!(throttle.admit_at(9), None);
    }
}
