//! Times of requests, responses and webhooks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};
use utoipa::openapi::{KnownFormat, ObjectBuilder, RefOr, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

/// A time, written as RFC 3339 in UTC with milliseconds, like the log's clock. Finer digits are truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub OffsetDateTime);

/// Why a text is no time, as the part of a sentence after its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidTime;

impl fmt::Display for InvalidTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be a time of RFC 3339 in the years 1 to 9999 of UTC, such as 2026-11-21T09:00:00Z")
    }
}

impl std::error::Error for InvalidTime {}

impl FromStr for Timestamp {
    type Err = InvalidTime;

    /// Reads a time that a client sent. Only a time whose year in UTC can be stored and written again is one.
    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        // The crate accepts any character between date and time; RFC 3339 allows only these.
        let has_separator = matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' '));
        let time = OffsetDateTime::parse(text, &Rfc3339).ok().filter(|_| has_separator);
        let utc = time.and_then(|time| time.checked_to_offset(UtcOffset::UTC));
        utc.filter(|utc| (1..=9999).contains(&utc.year())).map(Self).ok_or(InvalidTime)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

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
    fn a_time_of_a_client_is_in_the_years_1_to_9999_of_utc() {
        let read = |text: &str| text.parse::<Timestamp>();
        assert_eq!(read("2026-11-21T09:00:00.5+01:00"), Ok(Timestamp(datetime!(2026-11-21 8:00:00.5 UTC))));
        assert!(read("9999-12-31T23:59:59+23:59").is_ok() && read("0001-01-01T00:00:00-23:59").is_ok());
        for text in [
            "9999-12-31T23:59:59-23:59",
            "9999-12-31T23:59:59-00:01",
            "0001-01-01T00:00:00+00:01",
            "0000-01-01T00:00:00+23:59",
            "0000-06-01T00:00:00Z",
            "2026-11-21x09:00:00Z",
            "2026-11-21T09:00:00",
            "2026-11-21",
            "",
        ] {
            assert_eq!(read(text), Err(InvalidTime), "{text}");
        }
    }

    #[test]
    fn milliseconds_beyond_the_calendar_are_no_time() {
        assert_eq!(Timestamp::from_millis(1_500), Some(Timestamp(datetime!(1970-01-01 0:00:01.5 UTC))));
        assert_eq!(Timestamp::from_millis(-1), Some(Timestamp(datetime!(1969-12-31 23:59:59.999 UTC))));
        assert_eq!((Timestamp::from_millis(i64::MAX), Timestamp::from_millis(i64::MIN)), (None, None));
    }
}
