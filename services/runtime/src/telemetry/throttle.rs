//! A bound on lines of one kind: under overload every request would have something to say, and saying it would make the
//! overload worse.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Lets a number of lines through each second. Meant for a `static`; costs one atomic operation.
pub struct Throttle {
    per_second: u32,
    /// The second (since the first use of any throttle) in the upper half, lines asked for in it in the lower.
    window: AtomicU64,
}

impl Throttle {
    /// At most `per_second` lines.
    pub const fn new(per_second: u32) -> Self {
        Self { per_second, window: AtomicU64::new(0) }
    }

    /// Whether a line may be written now; with it, how many were held back in the last second that had any.
    pub fn admit(&self) -> Option<u32> {
        self.admit_at(STARTED.elapsed().as_secs())
    }

    fn admit_at(&self, second: u64) -> Option<u32> {
        let tick = |window: u64| if window >> 32 == second & 0xffff_ffff { window + 1 } else { (second << 32) | 1 };
        let before =
            self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| Some(tick(window))).unwrap_or(0);
        let asked = u32::try_from(before & 0xffff_ffff).unwrap_or(u32::MAX);
        if before >> 32 == second & 0xffff_ffff {
            (asked < self.per_second).then_some(0)
        } else {
            Some(asked.saturating_sub(self.per_second))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_pass_and_the_next_second_tells_how_many_did_not() {
        let throttle = Throttle::new(2);
        let passed: Vec<Option<u32>> = (0..5).map(|_| throttle.admit_at(7)).collect();
        assert_eq!(passed, vec![Some(0), Some(0), None, None, None]);
        assert_eq!(throttle.admit_at(9), Some(3));
        assert_eq!(throttle.admit_at(9), Some(0));
        assert_eq!(throttle.admit_at(9), None);
    }
}
