//! Why a record cannot be decoded.

use crate::codec::DecodeError;
use crate::event_json::Invalid;

/// Why a record cannot be decoded. Its dead letter has both fields as headers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unreadable {
    /// Stable, `lower_snake`: `null_value`, `bad_key`, `key_not_canonical`, `future_time`, `value_too_large`,
    /// `payload_too_large`, `malformed`, `invalid_event`, `invalid_ack`, `invalid_attempt`, `bad_avro`,
    /// `unknown_schema`, `organization_mismatch` or `bad_origin`.
    pub class: &'static str,
    /// One sentence, at most about a kilobyte.
    pub message: String,
}

impl Unreadable {
    pub(super) fn new(class: &'static str, message: impl Into<String>) -> Self {
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
