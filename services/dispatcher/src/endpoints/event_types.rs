//! The patterns of event types that an endpoint wants. Pure.

const MAX_CHARACTERS: usize = 255;

/// Whether a list of patterns matches a type: an empty list and `*` match all, `order.*` matches types that start with
/// `order.`, any other text matches itself.
pub(crate) fn matches(patterns: &[String], event_type: &str) -> bool {
    let is_match = |pattern: &String| match prefix(pattern) {
        Some(prefix) => event_type.starts_with(prefix),
        None => pattern == event_type,
    };
    patterns.is_empty() || patterns.iter().any(is_match)
}

/// What the types start with that a pattern with a star matches.
fn prefix(pattern: &str) -> Option<&str> {
    pattern.strip_suffix('*').filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

/// Checks a pattern that a client wrote.
///
/// # Errors
/// Why it is refused. A star that is no wildcard is: the client expects matches, and there would be none.
pub(super) fn check_pattern(pattern: &str) -> Result<(), &'static str> {
    let characters = pattern.chars().count();
    if !(1..=MAX_CHARACTERS).contains(&characters) || pattern.trim() != pattern || pattern.chars().any(char::is_control)
    {
        return Err("each must have 1 to 255 characters, no control character, and no blank at either end");
    }
    if prefix(pattern).unwrap_or(pattern).contains('*') {
        return Err("a star is a wildcard only alone, or after the last dot, as in order.*");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|pattern| (*pattern).to_owned()).collect()
    }

    #[test]
    fn patterns_match_all_a_prefix_or_one_type() {
        assert!(matches(&[], "anything"));
        assert!(matches(&list(&["a", "*"]), "anything"));
        let patterns = list(&["order.*", "invoice.paid"]);
        for (event_type, expected) in [
            ("order.created", true),
            ("order.a.b", true),
            ("order.", true),
            ("order", false),
            ("orders.created", false),
            ("invoice.paid", true),
            ("invoice.paid.late", false),
            ("Order.created", false),
        ] {
            assert_eq!(matches(&patterns, event_type), expected, "{event_type}");
        }
        assert!(!matches(&list(&["or*"]), "order"));
    }

    #[test]
    fn a_star_that_is_no_wildcard_is_refused() {
        for pattern in ["*", "order.*", "order.created", "a.b.*"] {
            assert_eq!(check_pattern(pattern), Ok(()), "{pattern}");
        }
        for pattern in ["", " a", "a\n", "or*", "*.created", "order.*.created", "**", "*.*", "order.**"] {
            assert!(check_pattern(pattern).is_err(), "{pattern}");
        }
        assert_eq!(check_pattern(&"a".repeat(255)), Ok(()));
        assert!(check_pattern(&"a".repeat(256)).is_err());
    }
}
