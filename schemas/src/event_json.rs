//! Parses and validates a new event from JSON: the body of `POST /v1/events`, and of a native record. CloudEvents are
//! mapped to the same [`NewEvent`] in [`crate::cloudevents`].
//!
//! Submodules: `envelope` and `members` parse the JSON object, `text` checks what serde_json does not check, `limits`
//! checks the values.

mod constants;
pub(crate) mod envelope;
mod error;
pub(crate) mod limits;
pub(crate) mod members;
#[cfg(test)]
mod tests;
pub(crate) mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

pub use constants::{
    MAX_BATCH_EVENTS, MAX_BODY_BYTES, MAX_METADATA_PAIRS, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_DEPTH, MAX_TEXT_CHARS,
    RESERVED_TYPE_PREFIX,
};
pub use error::{FieldError, Invalid};
pub use limits::{MAX_TIME_MICROS, MAX_WINDOW_SECONDS, MIN_TIME_MICROS, is_event_type_name};

use envelope::Envelope;
use limits::{FieldErrors, check_payload_size};
use members::Members;

use crate::ids::{EventId, OrgId};
use crate::records::{Dedup, Event, PayloadEncoding};

/// A valid event as its producer sent it, without organization, id and trace context, which only the reader knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// 1 to 255 characters, no control characters, no outer whitespace, not reserved.
    pub event_type: String,
    /// JSON text, byte for byte as it was sent.
    pub payload: String,
    /// Only a CloudEvent has one: our own JSON cannot say it.
    pub payload_encoding: Option<PayloadEncoding>,
    /// Microseconds since the Unix epoch.
    pub occurred_at: Option<i64>,
    /// 1 to 255 characters.
    pub dedup_id: Option<String>,
    /// 1 to 255 characters.
    pub source: Option<String>,
    /// 1 to 255 characters.
    pub ordering_key: Option<String>,
    /// At most 32 pairs.
    pub metadata: BTreeMap<String, String>,
}

impl NewEvent {
    /// Makes the record to append. The caller chooses `dedup`, because it may also come from a header or from the
    /// content.
    pub fn into_event(
        self,
        org_id: OrgId,
        event_id: EventId,
        dedup: Option<Dedup>,
        traceparent: Option<String>,
    ) -> Event {
        Event {
            org_id,
            event_id,
            event_type: self.event_type,
            payload: self.payload,
            payload_encoding: self.payload_encoding,
            occurred_at: self.occurred_at,
            source: self.source,
            ordering_key: self.ordering_key,
            metadata: self.metadata,
            dedup,
            traceparent,
        }
    }
}

/// Parses the body of one event. The caller must have enforced [`MAX_BODY_BYTES`].
///
/// # Errors
/// [`Invalid`], with every field that breaks a rule.
pub fn parse(body: &[u8]) -> Result<NewEvent, Invalid> {
    new_event(&Envelope::read(body, is_member, MEMBER_NAMES.len())?)
}

/// The members of the event that comes next in a larger text.
pub(crate) struct EventMembers<'a>(Members<'a>);

impl<'de> Deserialize<'de> for EventMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        Members::read_next(json, is_member, MEMBER_NAMES.len()).map(Self)
    }
}

/// As [`parse`], of the event `text`, whose members have been read.
pub(crate) fn parse_members<'a>(text: &'a str, members: EventMembers<'a>) -> Result<NewEvent, Invalid> {
    new_event(&Envelope::of(text, members.0)?)
}

fn new_event(envelope: &Envelope<'_>) -> Result<NewEvent, Invalid> {
    let members = &envelope.members;
    let mut errors = FieldErrors::default();
    let payload = payload(members, &mut errors);
    check_payload_size(payload)?;
    let field = if members.get("payload").is_none() && members.get("data").is_some() { "data" } else { "payload" };
    envelope.check_flaws(field, payload, &mut errors)?;

    let event_type = event_type(members, &mut errors);
    let optional = |field: &str, errors: &mut FieldErrors| {
        let text = errors.parse_string(field, members.non_null(field)?)?;
        errors.check_text(field, &text);
        Some(text)
    };
    let dedup_id = optional("dedup_id", &mut errors);
    let occurred_at = members.non_null("timestamp").and_then(|json| {
        let text = errors.parse_string("timestamp", json)?;
        errors.parse_time("timestamp", &text)
    });
    let source = optional("source", &mut errors);
    let ordering_key = optional("ordering_key", &mut errors);
    let metadata = members.non_null("metadata").map(|json| errors.parse_metadata(json)).unwrap_or_default();
    errors.into_result(NewEvent {
        event_type,
        payload: payload.to_owned(),
        payload_encoding: None,
        occurred_at,
        dedup_id,
        source,
        ordering_key,
        metadata,
    })
}

/// The members of the envelope, with aliases. All other members are ignored.
const MEMBER_NAMES: [&str; 9] =
    ["event_type", "type", "payload", "data", "dedup_id", "timestamp", "source", "ordering_key", "metadata"];

fn is_member(name: &str) -> bool {
    MEMBER_NAMES.contains(&name)
}

/// The event type under either name; empty if an error was added.
fn event_type(members: &Members<'_>, errors: &mut FieldErrors) -> String {
    let given = ["event_type", "type"]
        .map(|field| members.non_null(field).map(|json| (field, errors.parse_string(field, json))));
    let (field, text) = match given {
        [None, None] => {
            errors.add("event_type", "is required");
            return String::new();
        }
        [Some(one), None] | [None, Some(one)] => one,
        [Some(one), Some(other)] => {
            if one.1 != other.1 {
                errors.add("event_type", "differs from type, its alias");
                return String::new();
            }
            one
        }
    };
    let Some(text) = text else {
        return String::new();
    };
    errors.check_event_type(field, &text);
    errors.check_not_reserved(field, &text);
    text
}

/// The payload's text under either name. Null is a payload; a missing payload is an error.
fn payload<'a>(members: &Members<'a>, errors: &mut FieldErrors) -> &'a str {
    match (members.get("payload"), members.get("data")) {
        (None, None) => {
            errors.add("payload", "is required");
            ""
        }
        (Some(one), None) | (None, Some(one)) => one,
        (Some(one), Some(other)) => {
            if one != other {
                errors.add("payload", "differs from data, its alias");
            }
            // The longer one, so that the size limit holds for both.
            if other.len() > one.len() { other } else { one }
        }
    }
}
