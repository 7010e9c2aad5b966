//! The rules a new event must meet, for whoever brings it: the JSON body of `POST /v1/events` and of a native record. CloudEvents are mapped
//! onto the same [`NewEvent`] in [`crate::cloudevents`].
//!
//! Here: the types, and the reading of the envelope. Text that serde_json does not judge is judged in `text`, the limits on values are in `limits`.

use std::collections::BTreeMap;
use std::fmt;

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
    pub fn into_event(self, org_id: OrgId, event_id: EventId, dedup: Option<Dedup>, traceparent: Option<String>) -> Event {
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

/// Reads the body of one event.
///
/// # Errors
/// [`Invalid`], with every field that breaks a rule.
pub fn parse(_body: &[u8]) -> Result<NewEvent, Invalid> {
    Err(Invalid::Malformed { message: String::new() })
}
