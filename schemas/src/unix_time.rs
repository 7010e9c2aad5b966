//! Unix times (whole milliseconds or microseconds since 1970-01-01T00:00:00Z) and calendar times: the one place that
//! converts between them.

use time::OffsetDateTime;
use time::macros::datetime;

/// What a calendar time can be here: years that RFC 3339 can write and PostgreSQL can store.
const FIRST: OffsetDateTime = datetime!(0001-01-01 0:00 UTC);
const LAST: OffsetDateTime = datetime!(9999-12-31 23:59:59.999_999 UTC);

/// The time that lies so many milliseconds after the epoch. Years before 1 and after 9999 become the first or the last
/// moment of these: a topic with producers' times may hold any number.
pub fn from_millis(millis: i64) -> OffsetDateTime {
    from_nanos(i128::from(millis) * 1_000_000)
}

/// The same of microseconds.
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
    fn times_survive_the_way_there_and_back() {
        for time in [FIRST, datetime!(1969-12-31 23:59:59.999_999 UTC), datetime!(2026-11-21 9:00 UTC), LAST] {
            assert_eq!(from_micros(to_micros(time)), time);
            assert_eq!(from_millis(to_millis(time)), time.truncate_to_millisecond(), "cut to whole milliseconds");
        }
        assert_eq!((to_millis(datetime!(1969-12-31 23:59:59.999_5 UTC)), to_millis(from_millis(1_500))), (-1, 1_500));
    }

    #[test]
    fn numbers_beyond_the_calendar_are_its_ends() {
        assert_eq!((from_millis(i64::MIN), from_millis(i64::MAX)), (FIRST, LAST));
        assert_eq!((from_micros(i64::MIN), from_micros(i64::MAX)), (FIRST, LAST));
        assert_eq!(from_millis(to_millis(LAST) + 1), LAST);
    }
}
