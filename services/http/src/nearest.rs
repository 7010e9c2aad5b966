//! Names in refusals: the known name that an unknown one probably means, and names of clients cut to a bounded length.

use std::borrow::Cow;

use strsim::osa_distance;

/// The longest name of a client that an answer repeats, characters.
const MAX_NAME_CHARACTERS: usize = 100;
/// The longest text of a refusal, characters.
pub(super) const MAX_TEXT_CHARACTERS: usize = 1000;

/// The known name that differs least from `given`, if that is a third of its characters at most.
fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    // Some clients mark a list so.
    let given = shown(given.strip_suffix("[]").unwrap_or(given)).to_lowercase();
    let near = known.iter().map(|name| (osa_distance(&given, &name.to_lowercase()), *name));
    near.filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|near| near.1)
}

/// Why an unknown name is refused, as the part of a sentence after it. `what`: `a parameter of this route`.
pub(super) fn unknown(given: &str, what: &str, known: &[&str]) -> String {
    if known.is_empty() {
        format!("is not {what}: there is none")
    } else if let Some(name) = nearest(given, known) {
        format!("is not {what}; did you mean {name}?")
    } else {
        format!("is not {what}; known: {}", known.join(", "))
    }
}

/// A client's name, cut to 100 characters.
pub(super) fn shown(name: &str) -> Cow<'_, str> {
    cut(name, MAX_NAME_CHARACTERS)
}

/// A text, cut to so many characters; an ellipsis shows the cut.
pub(super) fn cut(text: &str, max_characters: usize) -> Cow<'_, str> {
    match text.char_indices().nth(max_characters) {
        Some((at, _)) => Cow::Owned(format!("{}\u{2026}", &text[..at])),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested() {
        let known = ["limit", "cursor", "event_type", "min_position"];
        for (given, meant) in [
            ("event_type[]", "event_type"),
            ("limit[]", "limit"),
            ("eventType", "event_type"),
            ("evnet_type", "event_type"),
            ("LIMIT", "limit"),
            ("limits", "limit"),
            ("courser", "cursor"),
            ("min-position", "min_position"),
        ] {
            assert_eq!(nearest(given, &known), Some(meant), "{given}");
        }
        for given in ["", "x", "type", "offset", &"limit".repeat(100_000)] {
            assert_eq!(nearest(given, &known), None, "{}", shown(given));
        }
    }

    #[test]
    fn without_a_near_name_all_are_listed() {
        assert_eq!(unknown("limt", "a parameter", &["limit"]), "is not a parameter; did you mean limit?");
        assert_eq!(unknown("x", "a parameter", &["limit", "cursor"]), "is not a parameter; known: limit, cursor");
        assert_eq!(unknown("x", "a parameter", &[]), "is not a parameter: there is none");
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(shown(&"\u{fc}".repeat(100)), "\u{fc}".repeat(100));
        assert_eq!(shown(&"\u{fc}".repeat(101)), format!("{}\u{2026}", "\u{fc}".repeat(100)));
    }
}
