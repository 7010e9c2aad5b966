//! Reads a batch of events of the usual form in one pass: `{"events": [{...}, ...]}`.

use super::{Form, Item};
use crate::event_json::{EventMembers, MAX_BATCH_EVENTS};

/// The items with their members. `None`: the body is not of this form, or has a mistake. Then its items are found
/// first, which says where the mistake is, and their members are read later.
pub(super) fn read(body: &str) -> Option<Vec<Item<'_>>> {
    let mut rest = body;
    for token in ["{", "\"events\"", ":", "["] {
        rest = without_blanks(rest).strip_prefix(token)?;
    }
    let mut items = Vec::new();
    while items.len() < MAX_BATCH_EVENTS {
        rest = without_blanks(rest);
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<EventMembers<'_>>();
        let members = values.next()?.ok()?;
        let (text, after) = rest.split_at_checked(values.byte_offset())?;
        items.push(Item { text, form: Form::Event(Some(members)) });
        rest = without_blanks(after);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
    }
    let end = without_blanks(rest.strip_prefix(']')?).strip_prefix('}')?;
    without_blanks(end).is_empty().then_some(items)
}

/// Without the whitespace of JSON at its start.
fn without_blanks(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\r'])
}
