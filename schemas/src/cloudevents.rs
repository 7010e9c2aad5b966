//! CloudEvents 1.0 in their JSON format (structured, batch) and in binary mode, mapped onto [`NewEvent`].
//!
//! | CloudEvent | event |
//! | --- | --- |
//! | `type` | `event_type` |
//! | `source` and `id` | `dedup_id`, see [`dedup_id`] |
//! | `source` | `source` |
//! | `time` | `occurred_at` |
//! | `partitionkey` | `ordering_key` |
//! | `data` | payload, verbatim; absent: `null` |
//! | `data_base64`, binary data | payload: a JSON string of the base64 text |
//! | `subject`, `datacontenttype`, `dataschema`, all extensions | metadata |

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::dedup::sha256_hex;
use crate::event_json::envelope::{Envelope, items};
use crate::event_json::limits::{Faults, payload_size};
use crate::event_json::text::{malformed, of_body, payload_flaw, syntax};
use crate::event_json::{Invalid, MAX_BATCH_EVENTS, MAX_METADATA_PAIRS, MAX_TEXT_CHARS, NewEvent};

/// The attributes with a meaning of their own, and as many extensions as metadata takes, and one more so that too many
/// are noticed.
const MAX_ATTRIBUTES: usize = 8 + MAX_METADATA_PAIRS + 1;

/// Reads a structured CloudEvent (`application/cloudevents+json`).
///
/// # Errors
/// [`Invalid`], with every attribute that breaks a rule.
pub fn structured(body: &[u8]) -> Result<NewEvent, Invalid> {
    let envelope = Envelope::read(body, |_| true, MAX_ATTRIBUTES)?;
    let members = &envelope.members;
    let mut faults = Faults::default();
    let (field, payload) = match (members.get("data"), members.given("data_base64")) {
        (Some(_), Some(_)) => {
            faults.add("data_base64", "must not be there beside data");
            ("data", "null")
        }
        (Some(data), None) => ("data", data),
        (None, Some(text)) => ("data_base64", text),
        (None, None) => ("data", "null"),
    };
    payload_size(payload)?;
    envelope.judge(field, Some(payload), &mut faults)?;
    if field == "data_base64"
        && !serde_json::from_str::<String>(payload).is_ok_and(|text| STANDARD.decode(text).is_ok())
    {
        faults.add(field, "must be a string in base64");
    }
    if members.overflow() {
        faults.add("metadata", format!("would have more than {MAX_METADATA_PAIRS} pairs of extension attributes"));
    }
    let mut attributes = Attributes::default();
    for (name, json) in
        members.iter().filter(|(name, json)| !matches!(*name, "data" | "data_base64") && *json != "null")
    {
        if let Some(value) = scalar(json) {
            attributes.0.insert(name.to_owned(), value);
        } else {
            faults.add(name, "must be a string, a boolean or an integer");
        }
    }
    attributes.event(payload.to_owned(), faults)
}

/// Reads a batch (`application/cloudevents-batch+json`): one result per item, in order. Places in an item's error count
/// from its beginning.
///
/// # Errors
/// [`Invalid`] when the body is no JSON array of 1 to [`MAX_BATCH_EVENTS`] items.
pub fn batch(body: &[u8]) -> Result<Vec<Result<NewEvent, Invalid>>, Invalid> {
    let items = items(of_body(body)?, MAX_BATCH_EVENTS).map_err(|error| syntax(&error))?;
    if items.is_empty() {
        return Err(malformed("a batch has at least one event"));
    }
    Ok(items.into_iter().map(|item| structured(item.as_bytes())).collect())
}

/// Reads a CloudEvent in binary mode. `attributes` are names without `ce-` or `ce_`, in lower case, with their values
/// as text (HTTP's percent-encoding undone with [`percent_decoded`]). Data that `content_type` calls JSON, or that has
/// no content type, is kept verbatim and no data is `null`; `text/*` becomes a JSON string; anything else a JSON string
/// of its base64 text.
///
/// # Errors
/// [`Invalid`], with every attribute that breaks a rule.
pub fn binary<'a>(
    attributes: impl Iterator<Item = (&'a str, &'a str)>,
    content_type: Option<&str>,
    body: &[u8],
) -> Result<NewEvent, Invalid> {
    let mut faults = Faults::default();
    let mut given = Attributes::default();
    for (name, value) in attributes.take(MAX_ATTRIBUTES) {
        if given.0.insert(name.to_owned(), value.to_owned()).is_some() {
            faults.add(name, "is there twice");
        }
    }
    if let Some(content_type) = content_type {
        given.0.insert("datacontenttype".to_owned(), content_type.to_owned());
    }
    let payload = binary_payload(content_type, body, &mut faults)?;
    payload_size(&payload)?;
    given.event(payload, faults)
}

/// The text of a `ce-` header of an HTTP request, where CloudEvents ask for percent-encoding; Kafka's headers have
/// none. `None` when what comes out is not UTF-8. A percent sign without two hex digits stays as it is.
pub fn percent_decoded(value: &str) -> Option<Cow<'_, str>> {
    if !value.contains('%') {
        return Some(Cow::Borrowed(value));
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.split_first_chunk::<2>().filter(|_| byte == b'%').and_then(|(digits, after)| {
            let [high, low] =
                digits.map(|digit| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok()));
            Some((high? << 4 | low?, after))
        });
        let (decoded, after) = escaped.unwrap_or((byte, after));
        bytes.push(decoded);
        rest = after;
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

fn binary_payload(content_type: Option<&str>, body: &[u8], faults: &mut Faults) -> Result<String, Invalid> {
    let media_type = content_type.map(media_type);
    match media_type.as_deref() {
        Some(text) if text.starts_with("text/") && !is_json(text) => as_json_string(of_body(body)?),
        Some(other) if !is_json(other) => as_json_string(&STANDARD.encode(body)),
        _ => {
            let json = of_body(body)?.trim_ascii();
            if json.is_empty() {
                return Ok("null".to_owned());
            }
            // Before the judging: nobody reads through megabytes to refuse them.
            payload_size(json)?;
            if let Some(flaw) = payload_flaw(json) {
                faults.add("data", flaw);
            }
            Ok(json.to_owned())
        }
    }
}

/// Type and subtype in lower case, without parameters.
pub(crate) fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a media type says JSON, as CloudEvents define it.
fn is_json(media_type: &str) -> bool {
    media_type.ends_with("/json") || media_type.ends_with("+json")
}

fn as_json_string(text: &str) -> Result<String, Invalid> {
    serde_json::to_string(text).map_err(|error| syntax(&error))
}

/// The value of an attribute as text, if it is of a type that attributes have.
fn scalar(json: &str) -> Option<String> {
    match serde_json::from_str(json).ok()? {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Bool(_) => Some(json.to_owned()),
        serde_json::Value::Number(number) if number.is_i64() => Some(json.to_owned()),
        _ => None,
    }
}

/// The context attributes by name.
#[derive(Default)]
struct Attributes(BTreeMap<String, String>);

impl Attributes {
    fn event(mut self, payload: String, mut faults: Faults) -> Result<NewEvent, Invalid> {
        if self.required("specversion", &mut faults).is_some_and(|version| version != "1.0") {
            faults.add("specversion", "must be 1.0");
        }
        let id = self.required("id", &mut faults).unwrap_or_default();
        if id.contains('\0') {
            faults.add("id", "must not hold the character U+0000");
        }
        let source = self.required("source", &mut faults).unwrap_or_default();
        if source.contains(|c: char| c.is_whitespace() || c.is_control()) {
            faults.add("source", "must be a URI reference, which holds no blanks");
        } else if !source.is_empty() {
            faults.text("source", &source);
        }
        let event_type = self.required("type", &mut faults);
        if let Some(event_type) = &event_type {
            faults.event_type("type", event_type);
            faults.not_reserved("type", event_type);
        }
        let occurred_at = self.0.remove("time").and_then(|text| faults.time("time", &text));
        let ordering_key = self.0.remove("partitionkey");
        if let Some(key) = &ordering_key {
            faults.text("partitionkey", key);
        }
        faults.metadata(&self.0);
        faults.or(NewEvent {
            event_type: event_type.unwrap_or_default(),
            payload,
            occurred_at,
            dedup_id: Some(dedup_id(&source, &id)),
            source: Some(source),
            ordering_key,
            metadata: self.0,
        })
    }

    /// Takes an attribute that must be there and must not be empty.
    fn required(&mut self, name: &str, faults: &mut Faults) -> Option<String> {
        let value = self.0.remove(name).filter(|value| !value.is_empty());
        if value.is_none() {
            faults.add(name, "is required");
        }
        value
    }
}

/// What names a repeat: source, a blank, id. A source holds no blank, so no two pairs give the same text. Too long a
/// text is replaced by its SHA-256 in hex.
pub fn dedup_id(source: &str, id: &str) -> String {
    let joined = format!("{source} {id}");
    if joined.chars().count() > MAX_TEXT_CHARS { sha256_hex(&[joined.as_bytes()]) } else { joined }
}

#[cfg(test)]
mod tests;
