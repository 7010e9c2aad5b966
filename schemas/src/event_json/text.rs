//! Checks of JSON text that serde_json does not do: byte-order mark, UTF-8, nesting, lone surrogates. Also converts
//! byte offsets to lines and columns.

use memchr::{memchr, memchr2, memchr2_iter};
use serde::de::IgnoredAny;
use serde_json::error::Category;

use super::constants::MAX_PAYLOAD_DEPTH;
use super::error::Invalid;

/// An error in a text that is well-formed JSON otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// Byte offset.
    pub(crate) at: usize,
    /// Continues a sentence that starts with "the payload" or the like.
    pub(crate) reason: &'static str,
}

const TOO_DEEP: &str = "is nested deeper than 64";
const LONE_SURROGATE: &str = "contains a lone surrogate";

/// The body as text: UTF-8 without a byte-order mark.
pub(crate) fn body_text(body: &[u8]) -> Result<&str, Invalid> {
    if body.starts_with(b"\xEF\xBB\xBF") {
        return Err(malformed("the body starts with a byte-order mark at line 1 column 1"));
    }
    std::str::from_utf8(body).map_err(|error| {
        // The part before the invalid byte is UTF-8.
        let valid = std::str::from_utf8(&body[..error.valid_up_to()]).unwrap_or_default();
        malformed(format!("the body is not UTF-8 at {}", line_and_column(valid, valid.len())))
    })
}

/// Line and column of a byte offset, both from 1. Columns count bytes, as in serde_json.
pub(crate) fn line_and_column(text: &str, at: usize) -> String {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|&&byte| byte != b'\n').count() + 1;
    format!("line {line} column {column}")
}

/// The byte offset of `part`, a slice of `text`, in `text`.
pub(crate) fn offset_of(text: &str, part: &str) -> usize {
    part.as_ptr().addr().saturating_sub(text.as_ptr().addr())
}

pub(crate) fn malformed(message: impl Into<String>) -> Invalid {
    Invalid::Malformed { message: message.into() }
}

/// An error of serde_json. Its text ends with line and column; of well-formed JSON it says only what is wanted.
pub(crate) fn syntax_error(error: &serde_json::Error) -> Invalid {
    let text = error.to_string();
    // What a visitor of this crate expects.
    if error.classify() == Category::Data
        && let Some((_, wanted)) = text.split_once(", expected ")
        && let Some((wanted, _)) = wanted.rsplit_once(" at line ")
    {
        return malformed(format!("the JSON is of the wrong form: there must be {wanted}"));
    }
    malformed(format!("the JSON is malformed: {error}"))
}

/// The first error of a payload that was not part of a JSON body: a syntax error, or a flaw as in [`first_flaw`].
pub(crate) fn payload_flaw(json: &str) -> Option<String> {
    if let Err(error) = serde_json::from_str::<IgnoredAny>(json) {
        return Some(format!("is not JSON: {error}"));
    }
    first_flaw(json, MAX_PAYLOAD_DEPTH).map(|flaw| format!("{} at {}", flaw.reason, line_and_column(json, flaw.at)))
}

/// The first nesting deeper than `max_depth`, or lone surrogate, in `json`. serde_json checks neither in a value that
/// it skips.
///
/// `json` must be well-formed. Otherwise the result is meaningless, but there is no panic.
pub(crate) fn first_flaw(json: &str, max_depth: usize) -> Option<Flaw> {
    let bytes = json.as_bytes();
    // Almost every text: no escape, and not that many brackets in all. It is searched many bytes at a time.
    if memchr(b'\\', bytes).is_none() && memchr2_iter(b'{', b'[', bytes).nth(max_depth).is_none() {
        return None;
    }
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > max_depth {
                    return Some(Flaw { at, reason: TOO_DEEP });
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => match end_of_string(bytes, at + 1) {
                Ok(end) => at = end,
                Err(at) => return Some(Flaw { at, reason: LONE_SURROGATE }),
            },
            _ => {}
        }
        at += 1;
    }
    None
}

/// The offset of the closing quote of the string whose content starts at `at`. The error is the offset of its first
/// lone surrogate.
fn end_of_string(bytes: &[u8], mut at: usize) -> Result<usize, usize> {
    // Most of a string is neither: the search takes many bytes at a time.
    while let Some(skipped) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += skipped;
        if bytes.get(at) == Some(&b'"') {
            return Ok(at);
        }
        match code_unit(bytes, at) {
            Some(0xD800..=0xDBFF) => match code_unit(bytes, at + 6) {
                Some(0xDC00..=0xDFFF) => at += 12,
                _ => return Err(at),
            },
            Some(0xDC00..=0xDFFF) => return Err(at),
            Some(_) => at += 6,
            None => at += 2,
        }
    }
    Ok(bytes.len())
}

/// The value of the escape `\uXXXX` at `at`, if one is there.
fn code_unit(bytes: &[u8], at: usize) -> Option<u32> {
    let (marker, digits) = bytes.get(at..at + 6)?.split_at(2);
    if marker != br"\u" {
        return None;
    }
    digits.iter().try_fold(0, |value, &digit| Some(value * 16 + char::from(digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lone_surrogates_are_found_and_pairs_are_not() {
        for (json, at) in [
            (r#""\ud800""#, Some(1)),
            (r#""a\udc00""#, Some(2)),
            (r#""\ud83d\ude00""#, None),
            (r#""\uD83D\uDE00\uD83D""#, Some(13)),
            (r#""\ud800\ud800\udc00""#, Some(1)),
            (r#""\\ud800""#, None),
            (r#""\ud800x""#, Some(1)),
            (r#"{"\udfff": 1}"#, Some(2)),
            (r#"["\"", "\u0000"]"#, None),
        ] {
            assert_eq!(first_flaw(json, 64).map(|flaw| flaw.at), at, "{json}");
        }
    }

    #[test]
    fn nesting_counts_arrays_and_objects_but_nothing_inside_strings() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(first_flaw(&nested(64), 64), None);
        assert_eq!(first_flaw(&nested(65), 64), Some(Flaw { at: 64, reason: TOO_DEEP }));
        assert_eq!(first_flaw(r#"["[[[[", {"{": "\"["}]"#, 2), None);
        assert_eq!(first_flaw("[[],[],[]]", 2), None);
    }

    #[test]
    fn line_and_column_count_from_one() {
        assert_eq!(line_and_column("", 0), "line 1 column 1");
        assert_eq!(line_and_column("ab\ncd", 4), "line 2 column 2");
        assert_eq!(line_and_column("ab", 9), "line 1 column 3");
    }

    #[test]
    fn a_payload_that_is_not_from_json_must_be_one_json_value() {
        assert_eq!(payload_flaw(" {\"a\": [1, \"\\u0000\"]} "), None);
        for bad in ["", "{", "1 2", "\u{feff}1", "nul", "\"\u{0}\"", "01", &"[".repeat(200_000)] {
            assert!(payload_flaw(bad).unwrap().starts_with("is not JSON: "));
        }
        assert_eq!(payload_flaw("[\n\"\\ud800\"]").unwrap(), "contains a lone surrogate at line 2 column 2");
    }

    proptest! {
        #[test]
        fn any_text_gives_a_result(text in r#"[\\"u{}\[\]d8cD0-9]{0,60}"#) {
            first_flaw(&text, 3);
        }

        /// serde_json rejects lone surrogates when it makes a `String`; both must agree.
        #[test]
        fn surrogates_are_checked_as_serde_json_does(units in prop::collection::vec(0xD7FE_u32..0xE002, 0..6)) {
            let json = format!("\"{}\"", units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>());
            prop_assert_eq!(first_flaw(&json, 1).is_none(), serde_json::from_str::<String>(&json).is_ok(), "{}", json);
        }
    }
}
