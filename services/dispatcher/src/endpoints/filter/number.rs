//! Decimal numbers of any size, compared exactly.

use std::cmp::Ordering;

/// A number: 0.DIGITS times ten to the power of `point`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decimal {
    is_negative: bool,
    /// ASCII digits without zeros at either end; empty: the number is zero.
    digits: String,
    point: i64,
}

/// Larger exponents count as this one, so that sums stay in range. Filters have no number near it.
const MAX_EXPONENT: i64 = i64::MAX / 4;

impl Decimal {
    /// Reads a number as JSON writes it. `None`: it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let digits = [whole, fraction].concat();
        let significant = digits.trim_start_matches('0');
        let leading_zeros = digits.len() - significant.len();
        let significant = significant.trim_end_matches('0');
        if significant.is_empty() {
            return Some(Self { is_negative: false, digits: String::new(), point: 0 });
        }
        let number = |length: usize| i64::try_from(length).unwrap_or(MAX_EXPONENT);
        let point = number(whole.len()) - number(leading_zeros) + exponent;
        Some(Self { is_negative, digits: significant.to_owned(), point })
    }

    pub(super) fn significant_digits(&self) -> usize {
        self.digits.len()
    }

    fn magnitude(&self, other: &Self) -> Ordering {
        match (self.digits.is_empty(), other.digits.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            // Without zeros at the ends, the order of the digits is that of the texts.
            (false, false) => self.point.cmp(&other.point).then_with(|| self.digits.cmp(&other.digits)),
        }
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.is_negative, other.is_negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => self.magnitude(other),
            (true, true) => other.magnitude(self),
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn read_exponent(text: &str) -> Option<i64> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !is_digits(digits) {
        return None;
    }
    let exponent = digits.parse::<i64>().unwrap_or(MAX_EXPONENT).min(MAX_EXPONENT);
    Some(if is_negative { -exponent } else { exponent })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn equal_numbers_are_equal_however_they_are_written() {
        for (one, other) in
            [("1", "1.0"), ("1", "10e-1"), ("0", "-0.0"), ("0", "0e99"), ("1e2", "100"), ("0.001", "1E-3")]
        {
            assert_eq!(number(one), number(other), "{one} {other}");
        }
        assert!(number("9007199254740993") > number("9007199254740992"), "f64 has one value for both");
        assert!(number("123456789012345678901234567891") > number("123456789012345678901234567890"));
        assert!(number("1e999999999999999999999") > number("1e300") && number("-1e9999999999999999999") < number("0"));
        assert!(number("1e-99999999999999999999") > number("0") && number("1e-99999999999999999999") < number("1e-9"));
    }

    #[test]
    fn other_texts_are_no_numbers() {
        for text in ["", "-", "+1", "1e", "1e+", ".5", "x", "1x", "1.2.3", "\u{661}", "--1", "1e1e1"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_are_ordered_as_such(one in any::<i128>(), other in any::<i128>(), zeros in 0_usize..4) {
            let text = format!("{one}.{}", "0".repeat(zeros + 1));
            prop_assert_eq!(number(&text).cmp(&number(&other.to_string())), one.cmp(&other));
            prop_assert_eq!(number(&text), number(&one.to_string()));
        }

        #[test]
        fn decimals_are_ordered_as_f64_where_that_is_exact(one in -9999_i32..9999, other in -9999_i32..9999) {
            let text = |number: i32| format!("{}", f64::from(number) / 8.0);
            prop_assert_eq!(number(&text(one)).cmp(&number(&text(other))), one.cmp(&other));
        }
    }
}
