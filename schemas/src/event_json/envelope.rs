//! Reads one JSON object into its members, each value as the text it has in the body, in one pass and without
//! recursion.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::limits::Faults;
use super::text::{first_flaw, malformed, of_body, offset_of, place, syntax};
use super::{Invalid, MAX_PAYLOAD_DEPTH};

/// Some members of an object, in their order, no name twice.
#[derive(Debug, Default)]
pub(crate) struct Members<'a> {
    pairs: Vec<(Cow<'a, str>, &'a str)>,
    /// Name and second value of the first member that came twice.
    twice: Option<(Cow<'a, str>, &'a str)>,
    /// More members than were asked for.
    overflow: bool,
}

impl<'a> Members<'a> {
    /// The members of `object` whose name `keep` takes, at most `limit`: the others are skipped, and so is what repeats
    /// a name.
    pub(crate) fn read(object: &'a str, keep: fn(&str) -> bool, limit: usize) -> Result<Self, serde_json::Error> {
        let mut json = serde_json::Deserializer::from_str(object);
        let members = json.deserialize_map(Reader { keep, limit })?;
        json.end()?;
        Ok(members)
    }

    /// The text of the member's value; null counts as absent.
    pub(crate) fn given(&self, name: &str) -> Option<&'a str> {
        self.get(name).filter(|value| *value != "null")
    }

    /// The text of the member's value.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.pairs.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    pub(crate) fn overflow(&self) -> bool {
        self.overflow
    }

    /// The name of a member that came twice.
    pub(crate) fn twice(&self) -> Option<&str> {
        self.twice.as_ref().map(|(name, _)| name.as_ref())
    }
}

/// A body that is one JSON object, with the members asked for.
pub(crate) struct Envelope<'a> {
    text: &'a str,
    pub(crate) members: Members<'a>,
}

impl<'a> Envelope<'a> {
    /// Reads the body; unknown members are skipped, a known one that comes twice is an error.
    pub(crate) fn read(body: &'a [u8], keep: fn(&str) -> bool, limit: usize) -> Result<Self, Invalid> {
        let text = of_body(body)?;
        let root = text.trim_ascii_start();
        match root.as_bytes().first() {
            None => return Err(malformed("the body is empty at line 1 column 1")),
            Some(b'"' | b'[' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9') => {
                return Err(malformed(format!(
                    "the body is not a JSON object at {}",
                    place(text, offset_of(text, root))
                )));
            }
            Some(_) => {}
        }
        let members = Members::read(text, keep, limit).map_err(|error| syntax(&error))?;
        if let Some((name, value)) = &members.twice {
            return Err(malformed(format!(
                "the key \"{name}\" is there twice, again at {}",
                place(text, offset_of(text, value))
            )));
        }
        Ok(Self { text, members })
    }

    /// Looks for what serde_json does not judge. A flaw inside `payload` is that field's fault; elsewhere the whole
    /// body is malformed.
    pub(crate) fn judge(&self, field: &str, payload: Option<&str>, faults: &mut Faults) -> Result<(), Invalid> {
        // The envelope itself is one level.
        let Some(flaw) = first_flaw(self.text, MAX_PAYLOAD_DEPTH + 1) else {
            return Ok(());
        };
        let place = place(self.text, flaw.at);
        let inside = payload.is_some_and(|payload| {
            let begin = offset_of(self.text, payload);
            (begin..begin + payload.len()).contains(&flaw.at)
        });
        if !inside {
            return Err(malformed(format!("the JSON {} at {place}", flaw.reason)));
        }
        faults.add(field, format!("{} at {place}", flaw.reason));
        Ok(())
    }
}

/// The texts of an array's items, at most `limit`: one more is an error, so that nobody makes the list long.
pub(crate) fn items(array: &str, limit: usize) -> Result<Vec<&str>, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(array);
    let items = json.deserialize_seq(Items { limit })?;
    json.end()?;
    Ok(items)
}

struct Items {
    limit: usize,
}

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<&'de str>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<&RawValue>()? {
            if items.len() == self.limit {
                return Err(A::Error::custom(format_args!("more than {} items", self.limit)));
            }
            items.push(item.get());
        }
        Ok(items)
    }
}

struct Reader {
    keep: fn(&str) -> bool,
    limit: usize,
}

impl<'de> Visitor<'de> for Reader {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Members::default();
        while let Some(name) = map.next_key_seed(Name)? {
            if !(self.keep)(&name) || members.twice.is_some() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value::<&RawValue>()?.get();
            if members.get(&name).is_some() {
                members.twice = Some((name, value));
            } else if members.pairs.len() == self.limit {
                members.overflow = true;
            } else {
                members.pairs.push((name, value));
            }
        }
        Ok(members)
    }
}

/// A member's name, borrowed from the body unless it holds escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}
