//! Reads a body that is one JSON object, and JSON arrays of items.

use std::fmt;

use serde::Deserializer;
use serde::de::{Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::constants::MAX_PAYLOAD_DEPTH;
use super::error::{Invalid, shown};
use super::limits::FieldErrors;
use super::members::Members;
use super::text::{body_text, first_flaw, line_and_column, malformed, offset_of, syntax_error};

/// A body that is one JSON object, with its wanted members.
pub(crate) struct Envelope<'a> {
    text: &'a str,
    pub(crate) members: Members<'a>,
}

impl<'a> Envelope<'a> {
    /// Reads the body. Members that `keep` rejects are skipped; a duplicate of another member is an error.
    pub(crate) fn read(body: &'a [u8], keep: fn(&str) -> bool, limit: usize) -> Result<Self, Invalid> {
        let text = body_text(body)?;
        let root = text.trim_ascii_start();
        match root.as_bytes().first() {
            None => return Err(malformed("the body is empty at line 1 column 1")),
            Some(b'"' | b'[' | b't' | b'f' | b'n' | b'-' | b'0'..=b'9') => {
                return Err(malformed(format!(
                    "the body is not a JSON object at {}",
                    line_and_column(text, offset_of(text, root))
                )));
            }
            Some(_) => {}
        }
        Self::of(text, Members::read(text, keep, limit).map_err(|error| syntax_error(&error))?)
    }

    /// The object `text`, whose members have been read.
    ///
    /// # Errors
    /// [`Invalid::Malformed`] for a duplicate member.
    pub(crate) fn of(text: &'a str, members: Members<'a>) -> Result<Self, Invalid> {
        if let Some((name, value)) = members.duplicate() {
            return Err(malformed(format!(
                "the key \"{}\" is duplicated at {}",
                shown(name),
                line_and_column(text, offset_of(text, value))
            )));
        }
        Ok(Self { text, members })
    }

    /// Checks for flaws that serde_json ignores. A flaw inside of `payload` is an error of that field; elsewhere the
    /// whole body is malformed.
    pub(crate) fn check_flaws(&self, field: &str, payload: &str, errors: &mut FieldErrors) -> Result<(), Invalid> {
        // The envelope itself is one level of nesting.
        let Some(flaw) = first_flaw(self.text, MAX_PAYLOAD_DEPTH + 1) else {
            return Ok(());
        };
        let position = line_and_column(self.text, flaw.at);
        let start = offset_of(self.text, payload);
        if !(start..start + payload.len()).contains(&flaw.at) {
            return Err(malformed(format!("the JSON {} at {position}", flaw.reason)));
        }
        errors.add(field, format!("{} at {position}", flaw.reason));
        Ok(())
    }
}

/// The texts of an array's items. More than `limit` items are an error, which bounds the list.
pub(crate) fn items(array: &str, limit: usize) -> Result<Vec<&str>, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(array);
    let items = json.deserialize_seq(ItemsVisitor { limit })?;
    json.end()?;
    Ok(items)
}

struct ItemsVisitor {
    limit: usize,
}

impl<'de> Visitor<'de> for ItemsVisitor {
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
