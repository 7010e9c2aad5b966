//! Errors of a new event.

use std::borrow::Cow;
use std::fmt;

use super::constants::MAX_PAYLOAD_BYTES;

const MAX_SHOWN_CHARS: usize = 100;

/// Why a body is not a valid event. `Display` gives one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalid {
    /// The text is not JSON, or not an object without duplicate keys.
    Malformed {
        /// What is wrong, with line and column.
        message: String,
    },
    /// All fields that break a rule, in the order of the contract.
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
    /// The field's name in the contract, for example `event_type` or `metadata.k`.
    pub field: String,
    /// What is wrong with it. Continues a sentence that starts with the field's name.
    pub reason: String,
}

/// A producer's name as errors repeat it: cut to 100 characters.
pub(super) fn shown(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((at, _)) => Cow::Owned(format!("{}\u{2026}", &name[..at])),
        None => Cow::Borrowed(name),
    }
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
