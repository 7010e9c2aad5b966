//! Durations as they are written on the command line.

use std::time::Duration;

/// Longest duration that is accepted, in milliseconds: a day.
const MAX_MS: u64 = 24 * 3_600_000;

/// Reads a duration: a number of seconds, or a number with `ms`, `s` or `m`.
///
/// # Errors
/// A sentence for the user when the text is not a duration or is longer than a day.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| "not a duration; write 90, 90s, 5m or 500ms".to_owned())?;
    let millis = match text.get(digits.len()..).unwrap_or_default() {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        _ => None,
    };
    millis
        .filter(|millis| *millis <= MAX_MS)
        .map(Duration::from_millis)
        .ok_or_else(|| "write 90, 90s, 5m or 500ms; at most a day".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_or_is_in_seconds() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "s", "5h", "-1", "1.5s", "99999999999999999999"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
