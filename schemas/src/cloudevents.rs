//! CloudEvents 1.0 in the JSON format and in binary mode, mapped to [`NewEvent`]. Batches are in [`crate::batch`].
//!
//! | CloudEvent | event |
//! | --- | --- |
//! | `type` | `event_type` |
//! | `source` and `id` | `dedup_id`, see [`dedup_id`] |
//! | `source` | `source` |
//! | `time` | `occurred_at` |
//! | `partitionkey` | `ordering_key` |
//! | `data` | payload, verbatim; absent: `null` |
//! | `data_base64`, binary data | payload: JSON verbatim if its content type is JSON; else its base64, marked as such |
//! | `subject`, `datacontenttype`, `dataschema`, all extensions | metadata |

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::dedup::sha256_hex;
use crate::event_json::envelope::Envelope;
use crate::event_json::limits::{FieldErrors, check_payload_size};
use crate::event_json::text::{body_text, payload_flaw, syntax_error};
use crate::event_json::{Invalid, MAX_METADATA_PAIRS, MAX_TEXT_CHARS, NewEvent};
use crate::records::PayloadEncoding;

/// The attributes that CloudEvents define, the most extensions that fit into metadata, and one more to notice that
/// there are too many.
const MAX_ATTRIBUTES: usize = 8 + MAX_METADATA_PAIRS + 1;

/// Attributes that CloudEvents define as texts. As a number or a boolean, `id` would be the same event as its text.
const TEXT_ATTRIBUTES: [&str; 9] =
    ["specversion", "id", "source", "type", "time", "subject", "datacontenttype", "dataschema", "partitionkey"];

/// Parses a structured CloudEvent (`application/cloudevents+json`).
///
/// # Errors
/// [`Invalid`], with every attribute that breaks a rule.
pub fn structured(body: &[u8]) -> Result<NewEvent, Invalid> {
    let envelope = Envelope::read(body, |_| true, MAX_ATTRIBUTES)?;
    let members = &envelope.members;
    let mut errors = FieldErrors::default();
    let (field, payload) = match (members.get("data"), members.non_null("data_base64")) {
        (Some(_), Some(_)) => {
            errors.add("data_base64", "must not be combined with data");
            ("data", "null")
        }
        (Some(data), None) => ("data", data),
        (None, Some(text)) => ("data_base64", text),
        (None, None) => ("data", "null"),
    };
    check_payload_size(payload)?;
    envelope.check_flaws(field, payload, &mut errors)?;
    let payload = if field == "data_base64" {
        let content_type = members.non_null("datacontenttype").and_then(scalar);
        base64_payload(content_type.as_deref(), payload, &mut errors)
    } else {
        Payload::json(payload)
    };
    if members.overflow() {
        errors.add("metadata", format!("would have more than {MAX_METADATA_PAIRS} pairs of extension attributes"));
    }
    let mut attributes = Attributes::default();
    for (name, json) in
        members.iter().filter(|(name, json)| !matches!(*name, "data" | "data_base64") && *json != "null")
    {
        match scalar(json) {
            Some(value) => {
                if TEXT_ATTRIBUTES.contains(&name) && !json.starts_with('"') {
                    errors.add(name, "must be a string");
                }
                attributes.0.insert(name.to_owned(), value);
            }
            None => errors.add(name, "must be a string, a boolean or an integer"),
        }
    }
    attributes.into_event(payload, errors)
}

/// Parses a CloudEvent in binary mode. `attributes` are names in lower case without `ce-` or `ce_`, with their values
/// as text; for HTTP, the caller decodes percent-encoding with [`percent_decoded`]. JSON data, and data without a
/// content type, is kept verbatim; no data (`None`, or no bytes of JSON) becomes `null`; `text/*` becomes a JSON
/// string; other data becomes a JSON string of its base64 text, marked by the payload encoding.
///
/// # Errors
/// [`Invalid`], with every attribute that breaks a rule.
pub fn binary<'a>(
    attributes: impl Iterator<Item = (&'a str, &'a str)>,
    content_type: Option<&str>,
    body: Option<&[u8]>,
) -> Result<NewEvent, Invalid> {
    let mut errors = FieldErrors::default();
    let mut given = Attributes::default();
    for (name, value) in attributes.take(MAX_ATTRIBUTES) {
        if given.0.insert(name.to_owned(), value.to_owned()).is_some() {
            errors.add(name, "is duplicated");
        }
    }
    if let Some(content_type) = content_type {
        given.0.insert("datacontenttype".to_owned(), content_type.to_owned());
    }
    let payload = match body {
        Some(body) => binary_payload(content_type, body, &mut errors)?,
        None => Payload::json("null"),
    };
    check_payload_size(&payload.text)?;
    given.into_event(payload, errors)
}

/// Decodes the percent-encoding that CloudEvents require in `ce-` headers over HTTP; Kafka headers are not encoded.
/// `None` when the result is not UTF-8. A percent sign without two hex digits is kept.
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

/// The JSON text of a payload, and how it came about.
struct Payload {
    text: String,
    encoding: Option<PayloadEncoding>,
}

impl Payload {
    fn json(text: &str) -> Self {
        Self { text: text.to_owned(), encoding: None }
    }

    /// `text` is base64, which needs no escapes.
    fn base64(text: &str) -> Self {
        Self { text: format!("\"{text}\""), encoding: Some(PayloadEncoding::Base64) }
    }
}

/// The payload of `data_base64`, whose JSON text is `json`.
fn base64_payload(content_type: Option<&str>, json: &str, errors: &mut FieldErrors) -> Payload {
    let text = serde_json::from_str::<String>(json).unwrap_or_default();
    let Some(data) = STANDARD.decode(&text).ok().filter(|_| json.starts_with('"')) else {
        errors.add("data_base64", "must be a string in base64");
        return Payload::json("null");
    };
    if !content_type.is_some_and(|content_type| is_json(&media_type(content_type))) {
        return Payload::base64(&text);
    }
    match std::str::from_utf8(&data).map(str::trim_ascii) {
        Ok("") => Payload::json("null"),
        Ok(json) => {
            if let Some(flaw) = payload_flaw(json) {
                errors.add("data_base64", flaw);
            }
            Payload::json(json)
        }
        Err(_) => {
            errors.add("data_base64", "is not UTF-8, but its content type is JSON");
            Payload::json("null")
        }
    }
}

fn binary_payload(content_type: Option<&str>, body: &[u8], errors: &mut FieldErrors) -> Result<Payload, Invalid> {
    let media_type = content_type.map(media_type);
    match media_type.as_deref() {
        Some(text) if text.starts_with("text/") && !is_json(text) => {
            Ok(Payload { text: as_json_string(body_text(body)?)?, encoding: None })
        }
        Some(other) if !is_json(other) => Ok(Payload::base64(&STANDARD.encode(body))),
        _ => {
            let json = body_text(body)?.trim_ascii();
            if json.is_empty() {
                return Ok(Payload::json("null"));
            }
            // First, so that megabytes are rejected without parsing them.
            check_payload_size(json)?;
            if let Some(flaw) = payload_flaw(json) {
                errors.add("data", flaw);
            }
            Ok(Payload::json(json))
        }
    }
}

/// Type and subtype in lower case, without parameters.
pub(crate) fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a media type is JSON, as CloudEvents define it.
fn is_json(media_type: &str) -> bool {
    media_type.ends_with("/json") || media_type.ends_with("+json")
}

fn as_json_string(text: &str) -> Result<String, Invalid> {
    serde_json::to_string(text).map_err(|error| syntax_error(&error))
}

/// The value of an attribute as text; `None` if it is not a string, a boolean or an integer. Not through serde_json's
/// `Value`, which would give an object with a name of serde_json's own a meaning.
fn scalar(json: &str) -> Option<String> {
    if json.starts_with('"') {
        return serde_json::from_str(json).ok();
    }
    let is_scalar = matches!(json, "true" | "false") || serde_json::from_str::<i64>(json).is_ok();
    is_scalar.then(|| json.to_owned())
}

/// The context attributes by name.
#[derive(Default)]
struct Attributes(BTreeMap<String, String>);

impl Attributes {
    fn into_event(mut self, payload: Payload, mut errors: FieldErrors) -> Result<NewEvent, Invalid> {
        if self.required("specversion", &mut errors).is_some_and(|version| version != "1.0") {
            errors.add("specversion", "must be 1.0");
        }
        let id = self.required("id", &mut errors).unwrap_or_default();
        if id.contains('\0') {
            errors.add("id", "must not contain the character U+0000");
        }
        let source = self.required("source", &mut errors).unwrap_or_default();
        if source.contains(|c: char| c.is_whitespace() || c.is_control()) {
            errors.add("source", "must be a URI reference, which contains no whitespace");
        } else if !source.is_empty() {
            errors.check_text("source", &source);
        }
        let event_type = self.required("type", &mut errors);
        if let Some(event_type) = &event_type {
            errors.check_event_type("type", event_type);
            errors.check_not_reserved("type", event_type);
        }
        let occurred_at = self.0.remove("time").and_then(|text| errors.parse_time("time", &text));
        let ordering_key = self.0.remove("partitionkey");
        if let Some(key) = &ordering_key {
            errors.check_text("partitionkey", key);
        }
        errors.check_metadata(&self.0);
        errors.into_result(NewEvent {
            event_type: event_type.unwrap_or_default(),
            payload: payload.text,
            payload_encoding: payload.encoding,
            occurred_at,
            dedup_id: Some(dedup_id(&source, &id)),
            source: Some(source),
            ordering_key,
            metadata: self.0,
        })
    }

    /// Removes and returns a required attribute, which must not be empty.
    fn required(&mut self, name: &str, errors: &mut FieldErrors) -> Option<String> {
        let value = self.0.remove(name).filter(|value| !value.is_empty());
        if value.is_none() {
            errors.add(name, "is required");
        }
        value
    }
}

/// The dedup id: source, a space, id. A source contains no space, so different pairs give different texts. A text over
/// 255 characters is replaced by its SHA-256 in hex.
pub fn dedup_id(source: &str, id: &str) -> String {
    let joined = format!("{source} {id}");
    if joined.chars().count() > MAX_TEXT_CHARS { sha256_hex(&[joined.as_bytes()]) } else { joined }
}

#[cfg(test)]
mod tests;
