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
mod parts;
mod system;
mod time_limit;
mod unreadable;

use std::borrow::Cow;

pub use acks::{MAX_ACKS_PER_RECORD, read_acks};
pub use attempts::{MAX_ERROR_BYTES, MAX_RESPONSE_EXCERPT_BYTES, read_attempt};
use encoding::{Encoding, encoding_of};
pub use origin::Origin;
pub use parts::organization_named_by;
use parts::{header, organization_of, same_organization, value_of};
pub use system::SystemKey;
pub use time_limit::{MAX_AHEAD_MS, check_time};
pub use unreadable::Unreadable;

use crate::codec;
use crate::event_json::limits::check_event;
use crate::event_json::{self, NewEvent};
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
    /// Name and value of each header that has a value, in order; a value may be empty.
    pub headers: &'a [(String, Vec<u8>)],
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
    read_event_with(record, None)
}

/// Decodes one record as [`read_event`] does. An Avro record that `key` has signed may have a reserved event type.
///
/// # Errors
/// [`Unreadable`]. It never panics.
pub fn read_event_with(record: &NativeRecord<'_>, key: Option<&SystemKey>) -> Result<Event, Unreadable> {
    // Of the encodings, only a binary CloudEvent is an event without a value.
    let encoding = encoding_of(record.value.unwrap_or_default(), record.headers);
    let no_value = record.value.is_none() && encoding == Encoding::BinaryCloudEvent;
    let value = if no_value { &[] } else { value_of(record.value)? };
    let org_id = organization_of(record.key)?;
    let origin = Origin::of_headers(record.headers)?;
    let new = match encoding {
        Encoding::Avro => {
            let is_of_system = key.is_some_and(|key| key.has_signed(value, record.headers));
            return read_avro(org_id, value, is_of_system);
        }
        Encoding::Json => event_json::parse(value)?,
        Encoding::CloudEvent => cloudevents::structured(value)?,
        Encoding::BinaryCloudEvent => read_binary(record.value.map(|_| value), record.headers)?,
    };
    // A forged origin can only give the id of another event of the same organization.
    let event_id = origin.map_or_else(
        || EventId::derived_from_position(record.topic, record.partition, record.offset, record.timestamp_ms),
        |origin| origin.event_id(),
    );
    let dedup = new.dedup_id.as_deref().map(|id| Dedup::dedup_id(id, value));
    Ok(new.into_event(org_id, event_id, dedup, traceparent_of(record.headers)))
}

fn read_avro(org_id: OrgId, value: &[u8], is_of_system: bool) -> Result<Event, Unreadable> {
    let mut event = codec::decode_event(value)?;
    same_organization(org_id, event.org_id)?;
    check_event(&event, is_of_system)?;
    // Without a valid trace context, a new trace starts.
    event.traceparent = event.traceparent.filter(|text| is_traceparent(text));
    Ok(event)
}

fn read_binary(value: Option<&[u8]>, headers: &[(String, Vec<u8>)]) -> Result<NewEvent, Unreadable> {
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

fn traceparent_of(headers: &[(String, Vec<u8>)]) -> Option<String> {
    let text = String::from_utf8_lossy(header(headers, headers::TRACEPARENT)?);
    is_traceparent(&text).then(|| Cow::into_owned(text))
}

#[cfg(test)]
mod tests;
