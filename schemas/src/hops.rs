//! Through how many webhooks an event came to the log: webhooks that are events again must end.

use crate::headers::HOPS;

/// An event that came through more webhooks is refused.
pub const MAX_HOPS: u8 = 3;

/// Reads the value of [`HOPS`]: a whole number from 0 to 255, in digits without leading zeros.
pub fn parse(value: &[u8]) -> Option<u8> {
    let is_number = matches!(value, [b'0'] | [b'1'..=b'9', ..]) && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

/// The hops of a record: 0 without the header, or if its producer wrote one that cannot be read.
pub fn of_record(headers: &[(String, Vec<u8>)]) -> u8 {
    let last = headers.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(HOPS));
    last.and_then(|(_, value)| parse(value)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_small_numbers_in_digits() {
        for hops in 0..=u8::MAX {
            assert_eq!(parse(hops.to_string().as_bytes()), Some(hops));
        }
        for text in ["", " ", "-1", "+1", "01", "00", "1 ", " 1", "1.0", "1,2", "256", "999999999999", "x", "\u{661}"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse(&[0xff]), None);
    }

    #[test]
    fn the_last_header_of_a_record_counts() {
        let headers = |values: &[&str]| -> Vec<(String, Vec<u8>)> {
            values.iter().map(|value| ("Triggers-Hops".to_owned(), value.as_bytes().to_vec())).collect()
        };
        assert_eq!([of_record(&[]), of_record(&headers(&["1", "2"])), of_record(&headers(&["1", "x"]))], [0, 2, 0]);
    }
}
