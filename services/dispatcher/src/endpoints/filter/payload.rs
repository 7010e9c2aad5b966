//! A payload in which filters find values. Only the objects and arrays on the way to a wanted value are parsed, each
//! once, however many filters want it.

use std::cell::OnceCell;
use std::collections::HashMap;

use serde_json::value::RawValue;

use super::number::Decimal;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// A member of an object.
    pub name: String,
    /// The name as an item of an array.
    pub index: Option<usize>,
}

impl Segment {
    pub(super) fn new(name: &str) -> Self {
        let is_index = name == "0" || name.bytes().all(|byte| byte.is_ascii_digit()) && !name.starts_with('0');
        Self { name: name.to_owned(), index: name.parse().ok().filter(|_| is_index) }
    }
}

/// The payload of an event.
pub(crate) struct Payload<'a> {
    /// `None`: it is no JSON object.
    root: Option<Value<'a>>,
}

/// A value of a payload, parsed when it is wanted.
struct Value<'a> {
    text: &'a str,
    found: OnceCell<Box<Found<'a>>>,
}

/// A parsed value.
pub(super) enum Found<'a> {
    Null,
    Bool(bool),
    Number(Decimal),
    Text(String),
    Object(Members<'a>),
    Array(Items<'a>),
    /// No value that a filter could name. Validated payloads have none.
    Unreadable,
}

pub(super) struct Members<'a>(HashMap<String, Value<'a>>);

pub(super) struct Items<'a>(Vec<Value<'a>>);

impl<'a> Payload<'a> {
    /// `text`: JSON. `is_encoded`: it is the text form of binary data.
    pub(crate) fn new(text: &'a str, is_encoded: bool) -> Self {
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        Self { root: (!is_encoded && text.starts_with('{')).then(|| Value::new(text)) }
    }

    pub(super) fn is_object(&self) -> bool {
        self.root.is_some()
    }

    /// The value at a path.
    pub(super) fn find(&self, path: &[Segment]) -> Option<&Found<'a>> {
        let mut found = self.root.as_ref()?.found();
        for segment in path {
            let inner = match found {
                Found::Object(members) => members.0.get(&segment.name)?,
                Found::Array(items) => items.0.get(segment.index?)?,
                _ => return None,
            };
            found = inner.found();
        }
        Some(found)
    }
}

impl<'a> Value<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, found: OnceCell::new() }
    }

    fn found(&self) -> &Found<'a> {
        self.found.get_or_init(|| Box::new(parse(self.text).unwrap_or(Found::Unreadable)))
    }
}

fn parse(text: &str) -> Option<Found<'_>> {
    Some(match text.as_bytes().first()? {
        b'{' => {
            // Of a member that is there twice, the last one stays.
            let members: HashMap<String, &RawValue> = serde_json::from_str(text).ok()?;
            Found::Object(Members(members.into_iter().map(|(name, raw)| (name, Value::new(raw.get()))).collect()))
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            Found::Array(Items(items.into_iter().map(|raw| Value::new(raw.get())).collect()))
        }
        b'"' => Found::Text(serde_json::from_str(text).ok()?),
        b't' => Found::Bool(true),
        b'f' => Found::Bool(false),
        b'n' => Found::Null,
        _ => Found::Number(Decimal::parse(text)?),
    })
}
