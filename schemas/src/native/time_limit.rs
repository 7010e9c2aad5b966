//! The latest time that a record may have.

use super::unreadable::Unreadable;

/// How far a record's time may be ahead of the clock, milliseconds: one day, far more than clocks differ.
pub const MAX_AHEAD_MS: i64 = 86_400_000;

/// Checks the time of a record whose producer chose it (`CreateTime`). It would be the acceptance time, and decides
/// which time partition holds the event.
///
/// # Errors
/// When it is more than [`MAX_AHEAD_MS`] after `now_ms`.
pub fn check_time(timestamp_ms: i64, now_ms: i64) -> Result<(), Unreadable> {
    if timestamp_ms <= now_ms.saturating_add(MAX_AHEAD_MS) {
        return Ok(());
    }
    let message = "the record's time is more than a day ahead; the topic must use LogAppendTime";
    Err(Unreadable::new("future_time", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_up_to_one_day_ahead_is_accepted() {
        let now_ms = 1_700_000_000_000;
        for accepted in [i64::MIN, -1, 0, now_ms, now_ms + MAX_AHEAD_MS] {
            assert_eq!(check_time(accepted, now_ms), Ok(()));
        }
        for refused in [now_ms + MAX_AHEAD_MS + 1, i64::MAX] {
            assert_eq!(check_time(refused, now_ms).unwrap_err().class, "future_time");
        }
        assert_eq!(check_time(i64::MAX, i64::MAX), Ok(()), "no overflow");
    }
}
