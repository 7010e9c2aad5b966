//! The rules a new event must meet, for every producer: the JSON body of `POST /v1/events` and of a native record.
//! CloudEvents are mapped onto the same [`NewEvent`] in [`crate::cloudevents`].
//!
//! Here: the types, and the reading of the envelope. Text that serde_json does not judge is judged in `text`, an object
//! is taken apart in `envelope`, the limits on values are in `limits`.

pub(crate) mod envelope;
pub(crate) mod limits;
#[cfg(test)]
mod tests;
pub(crate) mod text;

use std::collections::BTreeMap;
use std::fmt;

pub use limits::{MAX_TIME_MICROS, MAX_WINDOW_SECONDS, MIN_TIME_MICROS};

use envelope::{Envelope, Members};
use limits::{Faults, payload_size};

use crate::ids::{EventId, OrgId};
use crate::records::{Dedup, Event};

/// The largest body of one event, bytes after decompression. Whoever reads the body keeps to it.
pub const MAX_BODY_BYTES: usize = 512 * 1024;
/// The largest payload, bytes of its JSON text.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// How deep arrays and objects may be nested; `[[1]]` is 2 deep.
pub const MAX_PAYLOAD_DEPTH: usize = 64;
/// The longest type, source, ordering key, dedup id and metadata key or value, characters.
pub const MAX_TEXT_CHARS: usize = 255;
/// The most metadata pairs.
pub const MAX_METADATA_PAIRS: usize = 32;
/// The most events of one batch.
pub const MAX_BATCH_EVENTS: usize = 1000;
/// Types that begin so are the system's own.
pub const RESERVED_TYPE_PREFIX: &str = "triggers.";

/// An event as its producer gave it, checked; without what only the reader knows (organization, id, trace).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// 1 to 255 characters, no control characters, no blank at either end, not reserved.
    pub event_type: String,
    /// JSON text, byte for byte as it was sent.
    pub payload: String,
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
    /// The record to append. `dedup` is the reader's choice: `dedup_id` alone says nothing of a header or of content.
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
            occurred_at: self.occurred_at,
            source: self.source,
            ordering_key: self.ordering_key,
            metadata: self.metadata,
            dedup,
            traceparent,
        }
    }
}

/// Why a body is no event. `Display` gives one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalid {
    /// The text is not what JSON or the envelope allows.
    Malformed {
        /// What is wrong, with line and column.
        message: String,
    },
    /// Fields break rules; all of them, in the order of the contract.
    Fields(Vec<FieldError>),
    /// The payload is over [`MAX_PAYLOAD_BYTES`].
    PayloadTooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// One field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// As the contract names it, for example `event_type` or `metadata.k`.
    pub field: String,
    /// What is wrong with it, to be read after the field's name.
    pub reason: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { message } => f.write_str(message),
            Self::Fields(errors) => {
                for (i, error) in errors.iter().enumerate() {
                    let separator = if i == 0 { "" } else { "; " };
                    write!(f, "{separator}{} {}", error.field, error.reason)?;
                }
                Ok(())
            }
            Self::PayloadTooLarge { bytes } => {
                write!(f, "the payload is {bytes} bytes of JSON text, at most {MAX_PAYLOAD_BYTES} are allowed")
            }
        }
    }
}

impl std::error::Error for Invalid {}

/// Reads the body of one event. Whoever read the body has kept to [`MAX_BODY_BYTES`].
///
/// # Errors
/// [`Invalid`], with every field that breaks a rule.
pub fn parse(body: &[u8]) -> Result<NewEvent, Invalid> {
    let envelope = Envelope::read(body, is_known, KNOWN.len())?;
    let members = &envelope.members;
    let mut faults = Faults::default();
    let payload = payload(members, &mut faults);
    payload_size(payload)?;
    let field = if members.get("payload").is_none() && members.get("data").is_some() { "data" } else { "payload" };
    envelope.judge(field, Some(payload), &mut faults)?;

    let event_type = event_type(members, &mut faults);
    let optional = |field: &str, faults: &mut Faults| {
        let text = faults.string(field, members.given(field)?)?;
        faults.text(field, &text);
        Some(text)
    };
    let dedup_id = optional("dedup_id", &mut faults);
    let occurred_at = members.given("timestamp").and_then(|json| {
        let text = faults.string("timestamp", json)?;
        faults.time("timestamp", &text)
    });
    let source = optional("source", &mut faults);
    let ordering_key = optional("ordering_key", &mut faults);
    let metadata = members.given("metadata").map(|json| faults.metadata_of_json(json)).unwrap_or_default();
    faults.or(NewEvent {
        event_type,
        payload: payload.to_owned(),
        occurred_at,
        dedup_id,
        source,
        ordering_key,
        metadata,
    })
}

/// The members of the envelope, aliases among them. All others are ignored.
const KNOWN: [&str; 9] =
    ["event_type", "type", "payload", "data", "dedup_id", "timestamp", "source", "ordering_key", "metadata"];

fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

/// The type under either name; empty beside a fault.
fn event_type(members: &Members<'_>, faults: &mut Faults) -> String {
    let given =
        ["event_type", "type"].map(|field| members.given(field).map(|json| (field, faults.string(field, json))));
    let (field, text) = match given {
        [None, None] => {
            faults.add("event_type", "is required");
            return String::new();
        }
        [Some(one), None] | [None, Some(one)] => one,
        [Some(one), Some(other)] => {
            if one.1 != other.1 {
                faults.add("event_type", "differs from type, its alias");
                return String::new();
            }
            one
        }
    };
    let Some(text) = text else {
        return String::new();
    };
    faults.event_type(field, &text);
    faults.not_reserved(field, &text);
    text
}

/// The payload's text under either name; null is a payload, absent is none.
fn payload<'a>(members: &Members<'a>, faults: &mut Faults) -> &'a str {
    match (members.get("payload"), members.get("data")) {
        (None, None) => {
            faults.add("payload", "is required");
            ""
        }
        (Some(one), None) | (None, Some(one)) => one,
        (Some(one), Some(other)) => {
            if one != other {
                faults.add("payload", "differs from data, its alias");
            }
            // The longer one, so that the size limit holds for both.
            if other.len() > one.len() { other } else { one }
        }
    }
}
