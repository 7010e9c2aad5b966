//! The limits on an event's values, whatever encoding they came in, and the collecting of what breaks them.
//!
//! They also keep away all that PostgreSQL would refuse: NUL in text, times out of its range.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::envelope::Members;
use super::text::payload_flaw;
use super::{FieldError, Invalid, MAX_METADATA_PAIRS, MAX_PAYLOAD_BYTES, MAX_TEXT_CHARS, RESERVED_TYPE_PREFIX};
use crate::records::{Dedup, Event};
use crate::unix_time::to_micros;

/// 0001-01-01T00:00:00Z, microseconds since the Unix epoch: what RFC 3339 can write.
pub const MIN_TIME_MICROS: i64 = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z, microseconds since the Unix epoch.
pub const MAX_TIME_MICROS: i64 = 253_402_300_799_999_999;
/// The longest window a record may ask duplicates to be remembered for, seconds: 31 days.
pub const MAX_WINDOW_SECONDS: i64 = 31 * 86_400;

/// The faults found so far.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<FieldError>);

impl Faults {
    pub(crate) fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.0.push(FieldError { field: field.into(), reason: reason.into() });
    }

    /// `value`, unless there was a fault.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Invalid> {
        if self.0.is_empty() { Ok(value) } else { Err(Invalid::Fields(self.0)) }
    }

    /// The string that `json` is, if it is one.
    pub(crate) fn string(&mut self, field: &str, json: &str) -> Option<String> {
        let text = serde_json::from_str(json).ok();
        if text.is_none() {
            self.add(field, "must be a string");
        }
        text
    }

    /// An event type. System types are for the system alone to write.
    pub(crate) fn event_type(&mut self, field: &str, text: &str) {
        self.text(field, text);
        if text.contains(|c: char| c.is_control() && c != '\0') {
            self.add(field, "must not hold control characters");
        }
        if text.trim() != text {
            self.add(field, "must not begin or end with a blank");
        }
    }

    pub(crate) fn not_reserved(&mut self, field: &str, event_type: &str) {
        if event_type.starts_with(RESERVED_TYPE_PREFIX) {
            self.add(field, format!("must not begin with {RESERVED_TYPE_PREFIX}, which is reserved"));
        }
    }

    /// 1 to 255 characters without NUL.
    pub(crate) fn text(&mut self, field: &str, text: &str) {
        if text.is_empty() {
            self.add(field, "must not be empty");
        }
        self.text_or_empty(field, text);
    }

    fn text_or_empty(&mut self, field: &str, text: &str) {
        if !fits(text) {
            self.add(field, format!("must not be longer than {MAX_TEXT_CHARS} characters"));
        }
        if text.contains('\0') {
            self.add(field, "must not hold the character U+0000");
        }
    }

    pub(crate) fn metadata(&mut self, metadata: &BTreeMap<String, String>) {
        if metadata.len() > MAX_METADATA_PAIRS {
            self.add("metadata", format!("must not have more than {MAX_METADATA_PAIRS} pairs"));
            return;
        }
        for (key, value) in metadata {
            if key.is_empty() || !fits(key) || key.contains('\0') {
                self.add("metadata", format!("must have keys of 1 to {MAX_TEXT_CHARS} characters without U+0000"));
            } else {
                self.text_or_empty(&format!("metadata.{key}"), value);
            }
        }
    }

    /// The pairs of a JSON object of strings.
    pub(crate) fn metadata_of_json(&mut self, json: &str) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::new();
        let Ok(members) = Members::read(json, |_| true, MAX_METADATA_PAIRS) else {
            self.add("metadata", "must be an object of strings");
            return metadata;
        };
        if members.twice().is_some() {
            self.add("metadata", "must not have a key twice");
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
        self.metadata(&metadata);
        metadata
    }

    /// An RFC 3339 time as microseconds since the Unix epoch; finer digits are dropped.
    pub(crate) fn time(&mut self, field: &str, text: &str) -> Option<i64> {
        // `time` takes any character between date and time; RFC 3339 means these.
        let separated = matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' '));
        let Some(time) = OffsetDateTime::parse(text, &Rfc3339).ok().filter(|_| separated) else {
            self.add(field, "must be a time as in RFC 3339, with an offset");
            return None;
        };
        let micros = Some(to_micros(time)).filter(|micros| in_range(*micros));
        if micros.is_none() {
            self.add(field, "must lie in the years 1 to 9999");
        }
        micros
    }
}

/// Whether a time can be stored and shown.
pub(crate) fn in_range(micros: i64) -> bool {
    (MIN_TIME_MICROS..=MAX_TIME_MICROS).contains(&micros)
}

/// The size limit of a payload.
pub(crate) fn payload_size(payload: &str) -> Result<(), Invalid> {
    if payload.len() > MAX_PAYLOAD_BYTES { Err(Invalid::PayloadTooLarge { bytes: payload.len() }) } else { Ok(()) }
}

/// Holds an event that was not made by [`super::parse`] to the same rules. System types are allowed: this is how the
/// system writes them.
pub(crate) fn check(event: &Event) -> Result<(), Invalid> {
    payload_size(&event.payload)?;
    let mut faults = Faults::default();
    faults.event_type("event_type", &event.event_type);
    if let Some(flaw) = payload_flaw(&event.payload) {
        faults.add("payload", flaw);
    }
    if event.occurred_at.is_some_and(|micros| !in_range(micros)) {
        faults.add("occurred_at", "must lie in the years 1 to 9999");
    }
    for (field, value) in [("source", &event.source), ("ordering_key", &event.ordering_key)] {
        if let Some(text) = value {
            faults.text(field, text);
        }
    }
    faults.metadata(&event.metadata);
    if let Some(dedup) = &event.dedup {
        check_dedup(dedup, &mut faults);
    }
    faults.or(())
}

fn check_dedup(dedup: &Dedup, faults: &mut Faults) {
    faults.text("dedup.key", &dedup.key);
    if !(1..=MAX_WINDOW_SECONDS).contains(&dedup.window_seconds) {
        faults.add("dedup.window_seconds", format!("must lie between 1 and {MAX_WINDOW_SECONDS}"));
    }
    if let Some(id) = &dedup.dedup_id {
        faults.text("dedup.dedup_id", id);
    }
    if dedup.body_hash.len() != 64 || !dedup.body_hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        faults.add("dedup.body_hash", "must be 64 lower-case hex digits");
    }
}

fn fits(text: &str) -> bool {
    // Characters are at least a byte each: the count is needed only for what might be too long.
    text.len() <= MAX_TEXT_CHARS || text.chars().count() <= MAX_TEXT_CHARS
}
