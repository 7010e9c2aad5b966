//! The payload of every event of a load: an order.

/// Event type of every event.
pub const EVENT_TYPE: &str = "load.order.created";
/// Start of every payload, up to the number of the order.
pub const ORDER_START: &str = "{\"order\":\"";
/// Width of the number; fixed, so that the size of a payload never changes.
pub const ORDER_DIGITS: usize = 12;

/// A payload of exactly `bytes` bytes, unless these are too few for an order without lines: the JSON text of an order
/// with this number.
#[must_use]
pub fn order(number: u64, bytes: usize) -> String {
    // Some structure, because a parser has work with a real event too, and a filler for the exact length.
    let mut text = format!("{ORDER_START}{number:0ORDER_DIGITS$}\",\"lines\":[");
    let closing = "],\"note\":\"\"}".len();
    let line = "{\"sku\":\"A-1001\",\"quantity\":2,\"price\":\"19.90\"}";
    while text.len() + line.len() + 1 + closing <= bytes {
        if !text.ends_with('[') {
            text.push(',');
        }
        text.push_str(line);
    }
    let filler = bytes.saturating_sub(text.len() + closing);
    text.push_str(&format!("],\"note\":\"{}\"}}", "x".repeat(filler)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_its_size_and_its_number() {
        for (number, bytes) in [(0, 64), (7, 600), (999_999, 4_096)] {
            let text = order(number, bytes);
            assert_eq!(text.len(), bytes);
            assert!(text.starts_with(&format!("{{\"order\":\"{number:012}\",")), "{text}");
        }
        assert_eq!(order(7, 600).matches("sku").count(), 12, "most of it is lines, not filler");
    }
}
