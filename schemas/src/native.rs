//! Decodes Kafka records of any producer into events, acknowledgements and delivery attempts. A record that cannot be
//! decoded gives the reason for its dead letter. The result depends only on the record and its log position, so every
//! consumer and every replay gets the same.
//!
//! A decoded record is within all limits, and PostgreSQL can store it. This crate does not check whether the
//! organization exists.

mod acks;
mod attempts;
mod encoding;
mod origin;

use std::borrow::Cow;

pub use acks::{MAX_ACKS_PER_RECORD, read_acks};
pub use attempts::{MAX_ERROR_BYTES, MAX_RESPONSE_EXCERPT_BYTES, read_attempt};
use encoding::{Encoding, encoding_of};
pub use origin::Origin;

use crate::codec::{self, DecodeError};
use crate::event_json::limits::check_event;
use crate::event_json::{self, Invalid, MAX_BODY_BYTES, NewEvent};
use crate::ids::{EventId, OrgId};
use crate::records::{Dedup, Event};
use crate::trace::is_traceparent;
use crate::{cloudevents, headers};

/// One record of the log of events, from any producer.
#[derive(Debug, Clone, Copy)]
pub struct NativeRecord<'a> {
    /// The topic's name, with the deployment's prefix.
    pub topic: &'a str,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Append time, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The record's key; in a valid record the organization's id as text.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// Name and value of each header, in order; a value may be empty.
    pub headers: &'a [(String, Vec<u8>)],
}

/// Why a record cannot be decoded. Its dead letter has both fields as headers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unreadable {
    /// Stable, `lower_snake`: `null_value`, `bad_key`, `value_too_large`, `payload_too_large`, `malformed`,
    /// `invalid_event`, `invalid_ack`, `invalid_attempt`, `bad_avro`, `unknown_schema`, `organization_mismatch` or
    /// `bad_origin`.
    pub class: &'static str,
    /// One sentence, at most about a kilobyte.
    pub message: String,
}

impl Unreadable {
    fn new(class: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        // The message becomes a Kafka header, and may contain text of the producer.
        message.truncate(message.floor_char_boundary(1024));
        Self { class, message }
    }
}

impl From<DecodeError> for Unreadable {
    fn from(error: DecodeError) -> Self {
        let class = if matches!(error, DecodeError::UnknownSchema { .. }) { "unknown_schema" } else { "bad_avro" };
        Self::new(class, error.to_string())
    }
}

impl From<Invalid> for Unreadable {
    fn from(error: Invalid) -> Self {
        let class = match &error {
            Invalid::Malformed { .. } => "malformed",
            Invalid::Fields(_) => "invalid_event",
            Invalid::PayloadTooLarge { .. } => "payload_too_large",
        };
        Self::new(class, error.to_string())
    }
}

impl NativeRecord<'_> {
    /// Whether another record may have the same event id: the record is a redriven dead letter, or its producer chose
    /// the id. Ids made by ingest, and ids derived from the record's own position, are unique.
    pub fn may_repeat_an_id(&self) -> bool {
        let names_its_id = || {
            self.value.is_some_and(|value| {
                value.starts_with(&codec::MARKER) && encoding_of(value, self.headers) == Encoding::Avro
            }) && header(self.headers, headers::KEY_ID).is_none()
        };
        header(self.headers, headers::ORIGIN_TOPIC).is_some() || names_its_id()
    }
}

/// Decodes one record of `triggers.events.v1`: Avro, JSON or a CloudEvent.
///
/// # Errors
/// [`Unreadable`]. It never panics.
pub fn read_event(record: &NativeRecord<'_>) -> Result<Event, Unreadable> {
    let value = value_of(record.value)?;
    let org_id = organization_of(record.key)?;
    let origin = Origin::of_headers(record.headers)?;
    let new = match encoding_of(value, record.headers) {
        Encoding::Avro => return read_avro(org_id, value),
        Encoding::Json => event_json::parse(value)?,
        Encoding::CloudEvent => cloudevents::structured(value)?,
        Encoding::BinaryCloudEvent => read_binary(value, record.headers)?,
    };
    // A forged origin can only give the id of another event of the same organization.
    let event_id = origin.map_or_else(
        || EventId::derived_from_position(record.topic, record.partition, record.offset, record.timestamp_ms),
        |origin| origin.event_id(),
    );
    let dedup = new.dedup_id.as_deref().map(|id| Dedup::dedup_id(id, value));
    Ok(new.into_event(org_id, event_id, dedup, traceparent_of(record.headers)))
}

fn read_avro(org_id: OrgId, value: &[u8]) -> Result<Event, Unreadable> {
    let mut event = codec::decode_event(value)?;
    same_organization(org_id, event.org_id)?;
    check_event(&event)?;
    // Without a valid trace context, a new trace starts.
    event.traceparent = event.traceparent.filter(|text| is_traceparent(text));
    Ok(event)
}

fn read_binary(value: &[u8], headers: &[(String, Vec<u8>)]) -> Result<NewEvent, Unreadable> {
    let mut attributes = Vec::new();
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        if let Some(attribute) = lower.strip_prefix("ce_") {
            let text = std::str::from_utf8(value)
                .map_err(|_| Unreadable::new("malformed", format!("the header {lower} is not UTF-8")))?;
            attributes.push((attribute.to_owned(), text));
        }
    }
    let content_type = header(headers, headers::CONTENT_TYPE).map(String::from_utf8_lossy);
    Ok(cloudevents::binary(
        attributes.iter().map(|(name, value)| (name.as_str(), *value)),
        content_type.as_deref(),
        value,
    )?)
}

/// The value, if it is present and within the size limit.
fn value_of(value: Option<&[u8]>) -> Result<&[u8], Unreadable> {
    let value = value.ok_or_else(|| Unreadable::new("null_value", "the record has no value"))?;
    // Avro is smaller than JSON apart from a few hundred bytes, so one limit fits all encodings.
    if value.len() > MAX_BODY_BYTES {
        let message = format!("the value has {} bytes, at most {MAX_BODY_BYTES} are allowed", value.len());
        return Err(Unreadable::new("value_too_large", message));
    }
    Ok(value)
}

fn organization_of(key: Option<&[u8]>) -> Result<OrgId, Unreadable> {
    key.and_then(|key| std::str::from_utf8(key).ok())
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Unreadable::new("bad_key", "the key is not an organization id, a hyphenated UUID"))
}

fn same_organization(key: OrgId, value: OrgId) -> Result<(), Unreadable> {
    if key == value {
        return Ok(());
    }
    Err(Unreadable::new("organization_mismatch", format!("the key names the organization {key}, the value {value}")))
}

/// The last header of that name, whatever its case: a later one replaces an earlier one.
fn header<'a>(headers: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a [u8]> {
    headers.iter().rev().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
}

fn traceparent_of(headers: &[(String, Vec<u8>)]) -> Option<String> {
    let text = String::from_utf8_lossy(header(headers, headers::TRACEPARENT)?);
    is_traceparent(&text).then(|| Cow::into_owned(text))
}

#[cfg(test)]
mod tests;
