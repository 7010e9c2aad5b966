//! Reads the members of an object that is a member of a body, and collects the errors with their places. Pure.

use http_server::{FieldError, JsonObject};
use serde_json::Value;

/// The members of one object. No error repeats a value: it may be a secret.
pub(super) struct Nested {
    place: &'static str,
    object: JsonObject,
    errors: Vec<FieldError>,
}

impl Nested {
    /// # Errors
    /// If the value is no object.
    pub(super) fn open(place: &'static str, value: &Value) -> Result<Self, Vec<FieldError>> {
        let Some(object) = value.as_object() else { return Err(vec![FieldError::new(place, "must be an object")]) };
        Ok(Self { place, object: JsonObject(object.clone()), errors: Vec::new() })
    }

    pub(super) fn refuse_unknown(&mut self, known: &[&str]) {
        if let Err(FieldError { field, reason }) = self.object.refuse_unknown(known) {
            self.refuse(&field, reason);
        }
    }

    pub(super) fn refuse(&mut self, name: &str, reason: impl Into<String>) {
        self.errors.push(FieldError::new(&format!("{}.{name}", self.place), reason));
    }

    /// `None`: the member is absent or wrong, which is an error.
    pub(super) fn required<T>(&mut self, name: &str, read: impl FnOnce(&Value) -> Result<T, String>) -> Option<T> {
        if self.object.0.get(name).is_none_or(Value::is_null) {
            self.refuse(name, "is required");
            return None;
        }
        self.optional(name, read)
    }

    /// `None`: the member is absent, null, or wrong; only the last is an error.
    pub(super) fn optional<T>(&mut self, name: &str, read: impl FnOnce(&Value) -> Result<T, String>) -> Option<T> {
        let value = self.object.0.get(name).filter(|value| !value.is_null())?;
        read(value).map_err(|reason| self.refuse(name, reason)).ok()
    }

    /// `value`: what was read; `None` only if there was an error.
    ///
    /// # Errors
    /// All that were found.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, Vec<FieldError>> {
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(self.errors),
        }
    }
}

/// A text of so many bytes whose characters are all allowed. `allowed_in_words` continues "must be … of".
///
/// # Errors
/// Why it is refused.
pub(super) fn text(
    value: &Value,
    bytes: std::ops::RangeInclusive<usize>,
    allowed_in_words: &str,
    allowed: impl Fn(char) -> bool,
) -> Result<String, String> {
    let text = value.as_str().ok_or("must be a text")?;
    if !bytes.contains(&text.len()) || !text.chars().all(allowed) {
        return Err(format!("must be a text of {} to {} bytes of {allowed_in_words}", bytes.start(), bytes.end()));
    }
    Ok(text.to_owned())
}

/// Any characters but control characters.
///
/// # Errors
/// Why it is refused.
pub(super) fn plain(value: &Value, bytes: std::ops::RangeInclusive<usize>) -> Result<String, String> {
    text(value, bytes, "UTF-8 without control characters", |c| !c.is_control())
}

/// Characters of ASCII that can be seen.
///
/// # Errors
/// Why it is refused.
pub(super) fn visible(value: &Value, bytes: std::ops::RangeInclusive<usize>) -> Result<String, String> {
    text(value, bytes, "visible ASCII characters", |c| c.is_ascii_graphic())
}
