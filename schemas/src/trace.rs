//! Validation of W3C trace context headers. Only valid ones are forwarded to webhooks.

const MAX_TRACEPARENT_BYTES: usize = 256;
const MAX_TRACESTATE_BYTES: usize = 512;

/// Whether the text is a `traceparent`: `<2 hex>-<32 hex>-<16 hex>-<2 hex>`, ids not all zero, at most 256 bytes. A
/// version after 00 may have more fields after another dash.
pub fn is_traceparent(text: &str) -> bool {
    let bytes = text.as_bytes();
    let Some((fields, more)) = bytes.split_at_checked(55) else { return false };
    let dashes = [2, 35, 52];
    let has_form = fields.iter().enumerate().all(|(at, byte)| match dashes.contains(&at) {
        true => *byte == b'-',
        false => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    });
    let is_not_zero = |id: &[u8]| id.iter().any(|byte| *byte != b'0');
    let may_have_more = !text.starts_with("00") && more.starts_with(b"-") && more.iter().all(u8::is_ascii_graphic);
    has_form
        && !text.starts_with("ff")
        && is_not_zero(&fields[3..35])
        && is_not_zero(&fields[36..52])
        && (more.is_empty() || may_have_more)
        && bytes.len() <= MAX_TRACEPARENT_BYTES
}

/// Whether the text may be forwarded as `tracestate`: 1 to 512 bytes of printable ASCII. The entries of vendors are not
/// checked.
pub fn is_tracestate(text: &str) -> bool {
    (1..=MAX_TRACESTATE_BYTES).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_has_the_form_of_its_version_and_nonzero_ids() {
        let later = |version: &str, more: &str| format!("{version}{}{more}", &TRACE[2..]);
        let longest = later("01", &format!("-{}", "x".repeat(MAX_TRACEPARENT_BYTES - 56)));
        for good in [TRACE, &later("01", ""), &later("01", "-"), &later("fe", "-more"), &longest] {
            assert!(is_traceparent(good), "{good}");
        }
        let bad = [
            String::new(),
            TRACE[1..].to_owned(),
            TRACE.to_uppercase(),
            TRACE.replace('-', "_"),
            format!("{TRACE}0"),
            later("00", "-more"),
            later("01", "more"),
            later("01", "-\0"),
            later("ff", ""),
            format!("{longest}x"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01".to_owned(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01".to_owned(),
            "\u{e9}".repeat(40),
        ];
        for bad in bad {
            assert!(!is_traceparent(&bad), "{bad}");
        }
    }

    #[test]
    fn a_tracestate_is_printable_and_bounded() {
        for good in ["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "a=1, b=2", &"x".repeat(512)] {
            assert!(is_tracestate(good), "{good}");
        }
        for bad in ["", "a=\t", "a=\0", "a=\u{e9}", &"x".repeat(513)] {
            assert!(!is_tracestate(bad), "{bad}");
        }
    }
}
