//! Batches of events: finds each item, in `{"events": [...]}`, in a JSON array of CloudEvents, and in lines (NDJSON).

mod lines;
mod one_pass;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

pub use lines::{Line, Lines};

use crate::cloudevents;
use crate::event_json::members::Name;
use crate::event_json::text::{body_text, malformed, syntax_error};
use crate::event_json::{self, EventMembers, FieldError, Invalid, MAX_BATCH_EVENTS, NewEvent};

/// An item of a batch, borrowed from its body.
pub struct Item<'a> {
    text: &'a str,
    form: Form<'a>,
}

enum Form<'a> {
    /// Our own JSON; with its members if they have been read.
    Event(Option<EventMembers<'a>>),
    CloudEvent,
}

impl<'a> Item<'a> {
    /// The item as it is in the body.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Parses and validates the item, as the body of a single request would be.
    ///
    /// # Errors
    /// [`Invalid`], with every field that breaks a rule.
    pub fn parse(self) -> Result<NewEvent, Invalid> {
        match self.form {
            Form::Event(Some(members)) => event_json::parse_members(self.text, members),
            Form::Event(None) => event_json::parse(self.text.as_bytes()),
            Form::CloudEvent => cloudevents::structured(self.text.as_bytes()),
        }
    }
}

/// The items of `{"events": [...]}`, 1 to [`MAX_BATCH_EVENTS`].
///
/// # Errors
/// [`Invalid`] when the body has another form. Unknown members are errors.
pub fn events(body: &[u8]) -> Result<Vec<Item<'_>>, Invalid> {
    let body = body_text(body)?;
    match one_pass::read(body) {
        Some(items) => Ok(items),
        None => Ok(of_texts(texts_of_events(body)?, || Form::Event(None))),
    }
}

fn of_texts<'a>(texts: Vec<&'a str>, form: fn() -> Form<'a>) -> Vec<Item<'a>> {
    texts.into_iter().map(|text| Item { text, form: form() }).collect()
}

fn texts_of_events(body: &str) -> Result<Vec<&str>, Invalid> {
    let mut json = serde_json::Deserializer::from_str(body);
    let batch = json.deserialize_map(BatchVisitor).map_err(|error| syntax_error(&error))?;
    json.end().map_err(|error| syntax_error(&error))?;
    if batch.is_duplicated {
        return Err(malformed("the key \"events\" is duplicated"));
    }
    let mut errors = Vec::new();
    if let Some(name) = batch.unknown {
        errors.push(FieldError { field: name, reason: "is not a member of a batch".to_owned() });
    }
    match &batch.items {
        None => errors.push(FieldError { field: "events".to_owned(), reason: "is required".to_owned() }),
        Some(items) => errors.extend(items.wrong_count()),
    }
    match batch.items {
        Some(items) if errors.is_empty() => Ok(items.texts),
        _ => Err(Invalid::Fields(errors)),
    }
}

/// The CloudEvents of a JSON array, 1 to [`MAX_BATCH_EVENTS`]: `application/cloudevents-batch+json`.
///
/// # Errors
/// [`Invalid`] when the body has another form.
pub fn array(body: &[u8]) -> Result<Vec<Item<'_>>, Invalid> {
    let mut json = serde_json::Deserializer::from_str(body_text(body)?);
    let items = json.deserialize_seq(ItemsVisitor).map_err(|error| syntax_error(&error))?;
    json.end().map_err(|error| syntax_error(&error))?;
    match items.wrong_count() {
        Some(error) => Err(Invalid::Fields(vec![error])),
        None => Ok(of_texts(items.texts, || Form::CloudEvent)),
    }
}

/// The error of a batch with this number of events; `None` if the number is allowed.
pub fn wrong_count(events: usize) -> Option<FieldError> {
    let reason = match events {
        0 => "must have at least one event".to_owned(),
        1..=MAX_BATCH_EVENTS => return None,
        _ => format!("must have at most {MAX_BATCH_EVENTS} events"),
    };
    Some(FieldError { field: "events".to_owned(), reason })
}

#[derive(Default)]
struct Items<'a> {
    /// The first [`MAX_BATCH_EVENTS`].
    texts: Vec<&'a str>,
    count: usize,
}

impl Items<'_> {
    fn wrong_count(&self) -> Option<FieldError> {
        wrong_count(self.count)
    }
}

struct ItemsVisitor;

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Items<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items<'de>, A::Error> {
        let mut items = Items::default();
        while items.count < MAX_BATCH_EVENTS {
            let Some(item) = seq.next_element::<&RawValue>()? else { return Ok(items) };
            items.texts.push(item.get());
            items.count += 1;
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {
            items.count += 1;
        }
        Ok(items)
    }
}

impl<'de> DeserializeSeed<'de> for ItemsVisitor {
    type Value = Items<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

#[derive(Default)]
struct Batch<'a> {
    items: Option<Items<'a>>,
    is_duplicated: bool,
    /// The first unknown member.
    unknown: Option<String>,
}

struct BatchVisitor;

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = Batch<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object with the member events")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Batch<'de>, A::Error> {
        let mut batch = Batch::default();
        while let Some(name) = map.next_key_seed(Name)? {
            if name != "events" {
                map.next_value::<IgnoredAny>()?;
                batch.unknown.get_or_insert_with(|| shown(name));
            } else if batch.items.is_some() {
                map.next_value::<IgnoredAny>()?;
                batch.is_duplicated = true;
            } else {
                batch.items = Some(map.next_value_seed(ItemsVisitor)?);
            }
        }
        Ok(batch)
    }
}

/// At most the first 64 characters of a name, for an error.
fn shown(name: Cow<'_, str>) -> String {
    name.chars().take(64).collect()
}
