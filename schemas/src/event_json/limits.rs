//! The limits on an event's values, for every encoding, and the errors of fields that break them.
//!
//! The limits also exclude what PostgreSQL would reject: NUL in text, and times out of its range.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::constants::{MAX_METADATA_PAIRS, MAX_PAYLOAD_BYTES, MAX_TEXT_CHARS, RESERVED_TYPE_PREFIX};
use super::error::{FieldError, Invalid, shown};
use super::members::Members;
use super::text::payload_flaw;
use crate::records::{Dedup, Event, PayloadEncoding};
use crate::unix_time::to_micros;

/// 0001-01-01T00:00:00Z, microseconds since the Unix epoch: what RFC 3339 can write.
pub const MIN_TIME_MICROS: i64 = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z, microseconds since the Unix epoch.
pub const MAX_TIME_MICROS: i64 = 253_402_300_799_999_999;
/// The longest dedup window of a record, seconds: 31 days.
pub const MAX_WINDOW_SECONDS: i64 = 31 * 86_400;

/// The invalid fields found so far. Its methods check or parse a value, and add an error if the value is invalid.
#[derive(Debug, Default)]
pub(crate) struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    pub(crate) fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.0.push(FieldError { field: shown(&field.into()).into_owned(), reason: reason.into() });
    }

    /// Returns `value`, or the errors if there are any.
    pub(crate) fn into_result<T>(self, value: T) -> Result<T, Invalid> {
        if self.0.is_empty() { Ok(value) } else { Err(Invalid::Fields(self.0)) }
    }

    /// Parses a JSON string.
    pub(crate) fn parse_string(&mut self, field: &str, json: &str) -> Option<String> {
        let text = serde_json::from_str(json).ok();
        if text.is_none() {
            self.add(field, "must be a string");
        }
        text
    }

    /// Checks an event type: a text without control characters and outer whitespace.
    pub(crate) fn check_event_type(&mut self, field: &str, text: &str) {
        self.check_text(field, text);
        if text.contains(|c: char| c.is_control() && c != '\0') {
            self.add(field, "must not contain control characters");
        }
        if text.trim() != text {
            self.add(field, "must not start or end with whitespace");
        }
    }

    /// Checks that an event type is not reserved. Only the system itself may write reserved types.
    pub(crate) fn check_not_reserved(&mut self, field: &str, event_type: &str) {
        if event_type.starts_with(RESERVED_TYPE_PREFIX) {
            self.add(field, format!("must not start with {RESERVED_TYPE_PREFIX}, which is reserved"));
        }
    }

    /// Checks a text: 1 to 255 characters without NUL.
    pub(crate) fn check_text(&mut self, field: &str, text: &str) {
        if text.is_empty() {
            self.add(field, "must not be empty");
        }
        self.check_text_or_empty(field, text);
    }

    fn check_text_or_empty(&mut self, field: &str, text: &str) {
        if !fits(text) {
            self.add(field, format!("must not be longer than {MAX_TEXT_CHARS} characters"));
        }
        if text.contains('\0') {
            self.add(field, "must not contain the character U+0000");
        }
    }

    /// Checks the number of pairs, and each key and value.
    pub(crate) fn check_metadata(&mut self, metadata: &BTreeMap<String, String>) {
        if metadata.len() > MAX_METADATA_PAIRS {
            self.add("metadata", format!("must not have more than {MAX_METADATA_PAIRS} pairs"));
            return;
        }
        for (key, value) in metadata {
            if key.is_empty() || !fits(key) || key.contains('\0') {
                self.add("metadata", format!("must have keys of 1 to {MAX_TEXT_CHARS} characters without U+0000"));
            } else {
                self.check_text_or_empty(&format!("metadata.{key}"), value);
            }
        }
    }

    /// Parses and checks metadata, a JSON object of strings.
    pub(crate) fn parse_metadata(&mut self, json: &str) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::new();
        let Ok(members) = Members::read(json, |_| true, MAX_METADATA_PAIRS) else {
            self.add("metadata", "must be an object of strings");
            return metadata;
        };
        if members.duplicate().is_some() {
            self.add("metadata", "must not have duplicate keys");
        }
        if members.overflow() {
            self.add("metadata", format!("must not have more than {MAX_METADATA_PAIRS} pairs"));
        }
        for (key, value) in members.iter() {
            let text = serde_json::from_str(value).unwrap_or_else(|_| {
                let field = if fits(key) { format!("metadata.{key}") } else { "metadata".to_owned() };
                self.add(field, "must be a string");
                String::new()
            });
            metadata.insert(key.to_owned(), text);
        }
        self.check_metadata(&metadata);
        metadata
    }

    /// Parses an RFC 3339 time into microseconds since the Unix epoch. Finer digits are truncated.
    pub(crate) fn parse_time(&mut self, field: &str, text: &str) -> Option<i64> {
        // The crate `time` accepts any character between date and time; RFC 3339 allows only these.
        let has_separator = matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' '));
        let Some(time) = OffsetDateTime::parse(text, &Rfc3339).ok().filter(|_| has_separator) else {
            self.add(field, "must be an RFC 3339 time with an offset");
            return None;
        };
        let micros = Some(to_micros(time)).filter(|micros| is_time_in_range(*micros));
        if micros.is_none() {
            self.add(field, "must be in the years 1 to 9999");
        }
        micros
    }
}

/// Whether a filter can name this event type: 1 to 255 characters without control characters.
pub fn is_event_type_name(name: &str) -> bool {
    (1..=MAX_TEXT_CHARS).contains(&name.chars().count()) && !name.chars().any(char::is_control)
}

/// Whether a time can be stored, and written as RFC 3339.
pub(crate) fn is_time_in_range(micros: i64) -> bool {
    (MIN_TIME_MICROS..=MAX_TIME_MICROS).contains(&micros)
}

/// Checks the size limit of a payload.
pub(crate) fn check_payload_size(payload: &str) -> Result<(), Invalid> {
    if payload.len() > MAX_PAYLOAD_BYTES { Err(Invalid::PayloadTooLarge { bytes: payload.len() }) } else { Ok(()) }
}

/// Checks an event that was not made by [`super::parse`] against the same limits. `is_of_system`: the system itself
/// wrote it, so it may have a reserved type.
pub(crate) fn check_event(event: &Event, is_of_system: bool) -> Result<(), Invalid> {
    check_payload_size(&event.payload)?;
    let mut errors = FieldErrors::default();
    errors.check_event_type("event_type", &event.event_type);
    if !is_of_system {
        errors.check_not_reserved("event_type", &event.event_type);
    }
    if let Some(flaw) = payload_flaw(&event.payload) {
        errors.add("payload", flaw);
    }
    if event.payload_encoding == Some(PayloadEncoding::Base64) && !is_base64(&event.payload) {
        errors.add("payload", "must be a string in base64, as its encoding says");
    }
    if event.occurred_at.is_some_and(|micros| !is_time_in_range(micros)) {
        errors.add("occurred_at", "must be in the years 1 to 9999");
    }
    for (field, value) in [("source", &event.source), ("ordering_key", &event.ordering_key)] {
        if let Some(text) = value {
            errors.check_text(field, text);
        }
    }
    errors.check_metadata(&event.metadata);
    if let Some(dedup) = &event.dedup {
        check_dedup(dedup, &mut errors);
    }
    errors.into_result(())
}

fn is_base64(json: &str) -> bool {
    serde_json::from_str::<String>(json).is_ok_and(|text| STANDARD.decode(text).is_ok())
}

fn check_dedup(dedup: &Dedup, errors: &mut FieldErrors) {
    errors.check_text("dedup.key", &dedup.key);
    if !(1..=MAX_WINDOW_SECONDS).contains(&dedup.window_seconds) {
        errors.add("dedup.window_seconds", format!("must be between 1 and {MAX_WINDOW_SECONDS}"));
    }
    if let Some(id) = &dedup.dedup_id {
        errors.check_text("dedup.dedup_id", id);
    }
    if dedup.body_hash.len() != 64 || !dedup.body_hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        errors.add("dedup.body_hash", "must be 64 lower-case hex digits");
    }
}

fn fits(text: &str) -> bool {
    // A character has at least one byte, so most texts need no count of characters.
    text.len() <= MAX_TEXT_CHARS || text.chars().count() <= MAX_TEXT_CHARS
}
