//! Settings of rate limits. Production uses the defaults; tests use a shorter window.

use std::time::Duration;

use super::window::WindowShape;

/// From this limit on, an instance leases tokens ahead of the requests that will spend them.
const LEASED_AHEAD_FROM: u32 = 1_000;
/// A slice leased ahead covers the recent rate for a 240th of the window: 250 ms of a minute.
const SLICES_PER_WINDOW: u64 = 240;
const SMALLEST_SLICE: u32 = 200;
const LARGEST_SLICE: u32 = 20;

/// Settings of rate limits.
#[derive(Debug, Clone, Copy)]
pub struct LimitSettings {
    /// Whether requests are counted and refused.
    pub enabled: bool,
    /// A limit is the number of requests within any time of this length.
    pub window: Duration,
    /// How long one lease may take before the instance goes on with its local window.
    pub lease_timeout: Duration,
    /// How often an instance reports that it is there.
    pub report_every: Duration,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            window: Duration::from_secs(60),
            lease_timeout: Duration::from_millis(250),
            report_every: Duration::from_secs(10),
        }
    }
}

impl LimitSettings {
    /// 60 buckets, of one second in production. Tokens are spent within two of them: 2 s.
    pub(crate) fn shape(&self) -> WindowShape {
        let bucket_ms = u32::try_from(self.window.as_millis() / 60).unwrap_or(u32::MAX).max(1);
        WindowShape { bucket_ms, window: 60, spend: 2 }
    }
}

/// Whether an instance leases ahead under this limit.
pub(super) const fn leases_ahead(limit: u32) -> bool {
    limit >= LEASED_AHEAD_FROM
}

/// Tokens to lease: those that requests wait for, or a slice for the recent rate if that is more. `spent` tokens were
/// spent in the last `during_ms`.
pub(super) fn slice(limit: u32, waiting: u32, spent: u32, during_ms: i64, window_ms: i64) -> u32 {
    if !leases_ahead(limit) {
        return waiting.min(limit);
    }
    let during_ms = during_ms.clamp(1, window_ms).unsigned_abs();
    let recent = u64::from(spent) * window_ms.unsigned_abs() / (during_ms * SLICES_PER_WINDOW);
    let recent = u32::try_from(recent).unwrap_or(u32::MAX);
    waiting.max(recent.clamp(limit / SMALLEST_SLICE, limit / LARGEST_SLICE)).min(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_limits_lease_only_what_waits() {
        assert_eq!(slice(100, 3, 90, 1_000, 60_000), 3);
        assert_eq!(slice(100, 300, 0, 1_000, 60_000), 100);
        assert_eq!(slice(999, 0, 90, 1_000, 60_000), 0);
    }

    #[test]
    fn a_slice_is_a_quarter_second_of_the_rate_within_bounds() {
        assert_eq!(slice(100_000, 1, 4_000, 1_000, 60_000), 1_000, "4,000 a second");
        assert_eq!(slice(100_000, 1, 0, 0, 60_000), 500, "at least a 200th of the limit");
        assert_eq!(slice(100_000, 1, 90_000, 1_000, 60_000), 5_000, "at most a 20th");
        assert_eq!(slice(100_000, 6_000, 0, 1_000, 60_000), 6_000, "a batch may need more");
        assert_eq!(slice(1_000, 1, 1, 1_000, 60_000), 5);
    }

    #[test]
    fn production_counts_seconds() {
        let shape = LimitSettings::default().shape();
        assert_eq!((shape.bucket_ms, shape.buckets()), (1_000, 63));
    }
}
