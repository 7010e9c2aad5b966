//! The members of one JSON object, each value as the text that it has in the body. They are read in one pass and
//! without recursion.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The wanted members of an object, in their order, without duplicates.
#[derive(Debug, Default)]
pub(crate) struct Members<'a> {
    pairs: Vec<(Cow<'a, str>, &'a str)>,
    /// Name and second value of the first duplicate member.
    duplicate: Option<(Cow<'a, str>, &'a str)>,
    /// Whether the object has more wanted members than the limit.
    overflow: bool,
}

impl<'a> Members<'a> {
    /// Reads at most `limit` members of `object` whose names satisfy `keep`. Other members and duplicates are skipped.
    pub(crate) fn read(object: &'a str, keep: fn(&str) -> bool, limit: usize) -> Result<Self, serde_json::Error> {
        let mut json = serde_json::Deserializer::from_str(object);
        let members = Self::read_next(&mut json, keep, limit)?;
        json.end()?;
        Ok(members)
    }

    /// As [`Self::read`], of the object that comes next.
    pub(crate) fn read_next<D: Deserializer<'a>>(
        json: D,
        keep: fn(&str) -> bool,
        limit: usize,
    ) -> Result<Self, D::Error> {
        json.deserialize_map(MembersVisitor { keep, limit })
    }

    /// The text of the member's value, unless it is null.
    pub(crate) fn non_null(&self, name: &str) -> Option<&'a str> {
        self.get(name).filter(|value| *value != "null")
    }

    /// The text of the member's value.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.pairs.iter().find(|(member, _)| member == name).map(|(_, value)| *value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.pairs.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    pub(crate) fn overflow(&self) -> bool {
        self.overflow
    }

    /// Name and second value of the first member whose name is repeated.
    pub(crate) fn duplicate(&self) -> Option<(&str, &'a str)> {
        self.duplicate.as_ref().map(|(name, value)| (name.as_ref(), *value))
    }
}

struct MembersVisitor {
    keep: fn(&str) -> bool,
    limit: usize,
}

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Members::default();
        while let Some(name) = map.next_key_seed(Name)? {
            if !(self.keep)(&name) || members.duplicate.is_some() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value::<&RawValue>()?.get();
            if members.get(&name).is_some() {
                members.duplicate = Some((name, value));
            } else if members.pairs.len() == self.limit {
                members.overflow = true;
            } else {
                members.pairs.push((name, value));
            }
        }
        Ok(members)
    }
}

/// A member's name, borrowed from the body unless it contains escapes.
pub(crate) struct Name;

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
