//! The `Retry-After` header of a response. Pure: takes `now`.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

/// Parses a `Retry-After` header: seconds, or an HTTP date in any of its three forms, relative to `now`. Anything else
/// is ignored.
pub(crate) fn parse(value: &str, now: OffsetDateTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Too many digits mean a very long time; `policy` limits it.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    // A date in the past means no delay.
    Some(date.duration_since(SystemTime::from(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;
    use crate::retry::policy::{RETRY_AFTER_LIMIT, ReceiverAnswer, RetryDecision, after_attempt};

    #[test]
    fn seconds_and_all_three_forms_of_a_date_are_read() {
        let now = datetime!(1994-11-06 08:49:00 UTC);
        assert_eq!(parse(" 120 ", now), Some(Duration::from_secs(120)));
        assert_eq!(parse("99999999999999999999999", now), Some(Duration::from_secs(u64::from(u32::MAX))));
        for date in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse(date, now), Some(Duration::from_secs(37)), "{date}");
        }
        assert_eq!(parse("Sun, 06 Nov 1994 08:48:37 GMT", now), Some(Duration::ZERO));
        for nonsense in ["", "-1", "soon", "1.5", "Sun, 06 Nov"] {
            assert_eq!(parse(nonsense, now), None, "{nonsense}");
        }
    }

    #[test]
    fn the_retry_after_parser_accepts_any_text() {
        let dates = ["Fri, 31 Dec 9999 23:59:59 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"];
        let golden = ["120", " 0 ", "Sun, 06 Nov 1994 08:49:37 GMT", dates[0], dates[1], dates[2]]
            .map(|text| text.as_bytes().to_vec());
        let samples = fuzz::Samples { golden: &golden, tokens: fuzz::ANY_TEXT, header: 4, large: 64 * 1024 };
        let now = datetime!(1994-11-06 08:49:00 UTC);
        fuzz::drive("Retry-After", &samples, |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return Ok(fuzz::DecodeOutcome::Refused) };
            let asked = parse(text, now);
            // The resulting delay is bounded for any text.
            let RetryDecision::RetryIn(delay) =
                after_attempt(&[30], 1, ReceiverAnswer { status: Some(503), retry_after: asked }, 0.0)
            else {
                return Err("no attempt is left".to_owned());
            };
            if !(Duration::from_secs(30)..=RETRY_AFTER_LIMIT).contains(&delay) {
                return Err(format!("the delay is {delay:?}"));
            }
            Ok(if asked.is_some() { fuzz::DecodeOutcome::Read } else { fuzz::DecodeOutcome::Refused })
        });
    }

    proptest! {
        #[test]
        fn no_header_value_panics(value in "\\PC{0,40}") {
            let _read = parse(&value, OffsetDateTime::UNIX_EPOCH);
        }
    }
}
