//! Conversion between Unix times (whole milliseconds or microseconds since 1970-01-01T00:00:00Z) and calendar times.

use time::OffsetDateTime;
use time::macros::datetime;

/// The range of calendar times: the years that RFC 3339 can write and PostgreSQL can store.
const FIRST: OffsetDateTime = datetime!(0001-01-01 0:00 UTC);
const LAST: OffsetDateTime = datetime!(9999-12-31 23:59:59.999_999 UTC);

/// Milliseconds since the epoch as a calendar time. Times before year 1 or after year 9999 become the first or the last
/// time of that range, because a topic with `CreateTime` may contain any number.
pub fn from_millis(millis: i64) -> OffsetDateTime {
    from_nanos(i128::from(millis) * 1_000_000)
}

/// Like [`from_millis`], for microseconds.
pub fn from_micros(micros: i64) -> OffsetDateTime {
    from_nanos(i128::from(micros) * 1_000)
}

fn from_nanos(nanos: i128) -> OffsetDateTime {
    let nanos = nanos.clamp(FIRST.unix_timestamp_nanos(), LAST.unix_timestamp_nanos());
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(LAST)
}

/// Milliseconds since the epoch, rounded down.
pub fn to_millis(time: OffsetDateTime) -> i64 {
    whole(time, 1_000_000)
}

/// Microseconds since the epoch, rounded down.
pub fn to_micros(time: OffsetDateTime) -> i64 {
    whole(time, 1_000)
}

fn whole(time: OffsetDateTime, unit_nanos: i128) -> i64 {
    // Every calendar time fits.
    i64::try_from(time.unix_timestamp_nanos().div_euclid(unit_nanos)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_a_round_trip() {
        for time in [FIRST, datetime!(1969-12-31 23:59:59.999_999 UTC), datetime!(2026-11-21 9:00 UTC), LAST] {
            assert_eq!(from_micros(to_micros(time)), time);
            assert_eq!(from_millis(to_millis(time)), time.truncate_to_millisecond(), "truncated to whole milliseconds");
        }
        assert_eq!((to_millis(datetime!(1969-12-31 23:59:59.999_5 UTC)), to_millis(from_millis(1_500))), (-1, 1_500));
    }

    #[test]
    fn numbers_out_of_range_become_the_first_or_last_time() {
        assert_eq!((from_millis(i64::MIN), from_millis(i64::MAX)), (FIRST, LAST));
        assert_eq!((from_micros(i64::MIN), from_micros(i64::MAX)), (FIRST, LAST));
        assert_eq!(from_millis(to_millis(LAST) + 1), LAST);
    }
}
