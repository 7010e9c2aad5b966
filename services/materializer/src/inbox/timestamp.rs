//! Times as every reply spells them: RFC 3339, UTC, milliseconds.

use serde::{Serialize, Serializer, ser};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

const MILLISECONDS: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// A time that serializes as text, cut to milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub OffsetDateTime);

impl Timestamp {
    /// From milliseconds since the Unix epoch; `None` beyond what a calendar knows.
    pub fn from_millis(millis: i64) -> Option<Self> {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok().map(Self)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.0.to_offset(UtcOffset::UTC).format(MILLISECONDS).map_err(ser::Error::custom)?;
        serializer.serialize_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_time_is_utc_with_three_digits_of_a_second() {
        let text = |time| serde_json::to_string(&Timestamp(time)).unwrap();
        assert_eq!(text(datetime!(2026-11-21 9:00:00.1239 +1)), r#""2026-11-21T08:00:00.123Z""#);
        assert_eq!(text(datetime!(0007-01-02 3:04:05 UTC)), r#""0007-01-02T03:04:05.000Z""#);
        assert_eq!(Timestamp::from_millis(1_500), Some(Timestamp(datetime!(1970-01-01 0:00:01.5 UTC))));
        assert_eq!(Timestamp::from_millis(i64::MAX), None);
    }
}
