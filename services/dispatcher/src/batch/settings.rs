//! The settings of batched delivery: one value for the API, the database and the dispatcher. Pure.

use std::time::Duration;

use http_server::{FieldError, JsonObject};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

const MEMBERS: &[&str] = &["max_events", "max_bytes", "max_wait_ms", "format"];
const MAX_EVENTS: u32 = 1000;
const MIN_BYTES: u32 = 1024;
/// A batch in flight holds as much memory.
pub(crate) const MAX_BYTES: u32 = 4 * 1024 * 1024;
/// Half of the time after which a first attempt goes to the schedule.
const MAX_WAIT_MS: u32 = 500;

/// How one request carries several events. Absent members have their defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = BatchSettings, example = json!({
    "max_events": 500, "max_bytes": 1048576, "max_wait_ms": 100, "format": "json"
}))]
pub(crate) struct BatchSettings {
    /// Most events of one request. Default 100.
    #[schema(minimum = 1, maximum = 1000)]
    pub max_events: u32,
    /// Largest body of one request, bytes. An event that is larger goes alone. Default 1048576.
    #[schema(minimum = 1024, maximum = 4194304)]
    pub max_bytes: u32,
    /// How long the first event waits for others, milliseconds. Default 100.
    #[schema(maximum = 500)]
    pub max_wait_ms: u32,
    /// Default `json`.
    pub format: BatchFormat,
}

/// What the body of a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BatchFormat {
    /// An array of the bodies that single webhooks have.
    Json,
    /// An array of CloudEvents 1.0, `application/cloudevents-batch+json`.
    CloudEvents,
}

impl Default for BatchSettings {
    fn default() -> Self {
        Self { max_events: 100, max_bytes: 1024 * 1024, max_wait_ms: 100, format: BatchFormat::Json }
    }
}

impl BatchSettings {
    /// Reads the settings that a client wrote.
    ///
    /// # Errors
    /// Every invalid member.
    pub(crate) fn read(value: &Value, field: &str) -> Result<Self, Vec<FieldError>> {
        let Some(object) = value.as_object() else {
            let reason = "must be an object with max_events, max_bytes, max_wait_ms and format";
            return Err(vec![FieldError::new(field, reason)]);
        };
        let object = JsonObject(object.clone());
        let at = |name: &str| format!("{field}.{name}");
        object.refuse_unknown(MEMBERS).map_err(|error| vec![FieldError::new(&at(&error.field), error.reason)])?;
        let (mut settings, mut errors) = (Self::default(), Vec::new());
        for (name, number, range) in [
            ("max_events", &mut settings.max_events, 1..=MAX_EVENTS),
            ("max_bytes", &mut settings.max_bytes, MIN_BYTES..=MAX_BYTES),
            ("max_wait_ms", &mut settings.max_wait_ms, 0..=MAX_WAIT_MS),
        ] {
            let Some(value) = object.0.get(name) else { continue };
            match value.as_u64().and_then(|value| u32::try_from(value).ok()).filter(|value| range.contains(value)) {
                Some(value) => *number = value,
                None => {
                    let reason = format!("must be a whole number from {} to {}", range.start(), range.end());
                    errors.push(FieldError::new(&at(name), reason));
                }
            }
        }
        if let Some(value) = object.0.get("format") {
            match BatchFormat::deserialize(value) {
                Ok(format) => settings.format = format,
                Err(_) => errors.push(FieldError::new(&at("format"), "must be json or cloudevents")),
            }
        }
        if errors.is_empty() { Ok(settings) } else { Err(errors) }
    }

    /// The settings in a row. Only a later version of the program can have written others.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn stored(value: &Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(value)
    }

    /// For the row.
    pub(crate) fn to_json(self) -> Value {
        json!(self)
    }

    pub(crate) fn max_wait(&self) -> Duration {
        Duration::from_millis(u64::from(self.max_wait_ms))
    }

    pub(crate) fn max_events(&self) -> usize {
        self.max_events.max(1) as usize
    }

    pub(crate) fn max_bytes(&self) -> usize {
        self.max_bytes as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invalid(value: Value) -> Vec<(String, String)> {
        let errors = BatchSettings::read(&value, "batch").unwrap_err();
        errors.into_iter().map(|error| (error.field, error.reason)).collect()
    }

    #[test]
    fn absent_members_have_their_defaults() {
        assert_eq!(BatchSettings::read(&json!({}), "batch"), Ok(BatchSettings::default()));
        let all = json!({"max_events": 1000, "max_bytes": 1024, "max_wait_ms": 0, "format": "cloudevents"});
        let read = BatchSettings::read(&all, "batch").unwrap();
        let format = BatchFormat::CloudEvents;
        assert_eq!(read, BatchSettings { max_events: 1000, max_bytes: 1024, max_wait_ms: 0, format });
        assert_eq!(serde_json::to_value(read).unwrap(), all, "it is shown as it is given");
        assert_eq!(BatchSettings::stored(&all).unwrap(), read);
    }

    #[test]
    fn every_invalid_member_is_named() {
        let all = json!({"max_events": 0, "max_bytes": 4_194_305, "max_wait_ms": 1.5, "format": "xml"});
        let fields: Vec<String> = invalid(all).into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["batch.max_events", "batch.max_bytes", "batch.max_wait_ms", "batch.format"]);
        let unknown =
            ("batch.max_event".to_owned(), "is not a member of this body; did you mean max_events?".to_owned());
        assert_eq!(invalid(json!({"max_event": 5})), [unknown]);
        assert_eq!(invalid(json!(true))[0].0, "batch");
    }
}
