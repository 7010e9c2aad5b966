//! The format of times in responses and webhooks.

use std::fmt;

use serde::{Serialize, Serializer};
use time::{OffsetDateTime, UtcOffset};
use utoipa::openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

/// A time, written as RFC 3339 in UTC with milliseconds, like the log's clock. Finer digits are truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub OffsetDateTime);

impl Timestamp {
    /// From milliseconds since the Unix epoch; `None` outside of the years that `time` supports.
    pub fn from_millis(millis: i64) -> Option<Self> {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok().map(Self)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let utc = self.0.to_offset(UtcOffset::UTC);
        let (year, month, day) = (utc.year(), u8::from(utc.month()), utc.day());
        let (hour, minute, second, millisecond) = (utc.hour(), utc.minute(), utc.second(), utc.millisecond());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .description(Some("A time in UTC: RFC 3339 with milliseconds."))
            .examples(["2026-11-21T09:00:00.123Z"])
            .into()
    }
}

impl ToSchema for Timestamp {}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_time_is_utc_with_three_digits_of_a_second() {
        let text = |time| serde_json::to_string(&Timestamp(time)).unwrap();
        assert_eq!(text(datetime!(2026-11-21 9:00:00.1239 +1)), r#""2026-11-21T08:00:00.123Z""#);
        assert_eq!(text(datetime!(0007-01-02 3:04:05 UTC)), r#""0007-01-02T03:04:05.000Z""#);
        assert_eq!(text(datetime!(2023-12-31 23:59:59.007 UTC)), r#""2023-12-31T23:59:59.007Z""#);
        assert_eq!(Timestamp(datetime!(9999-12-31 23:59:59.999_999 UTC)).to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn milliseconds_beyond_the_calendar_are_no_time() {
        assert_eq!(Timestamp::from_millis(1_500), Some(Timestamp(datetime!(1970-01-01 0:00:01.5 UTC))));
        assert_eq!(Timestamp::from_millis(-1), Some(Timestamp(datetime!(1969-12-31 23:59:59.999 UTC))));
        assert_eq!((Timestamp::from_millis(i64::MAX), Timestamp::from_millis(i64::MIN)), (None, None));
    }
}
