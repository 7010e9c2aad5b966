//! An event to send.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::error::Error;

/// An event to send. Optional fields are set by its methods.
///
/// ```
/// use triggers_client::Event;
///
/// # fn main() -> Result<(), triggers_client::Error> {
/// let event = Event::new("order.created", &serde_json::json!({"id": 7, "total": "12.50"}))?
///     .dedup_id("order-7")
///     .ordering_key("customer-9")
///     .metadata("region", "eu");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    event_type: String,
    payload: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dedup_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ordering_key: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

impl Event {
    /// An event with the JSON form of `payload`.
    ///
    /// # Errors
    /// [`Error::Invalid`]: the payload has no JSON form.
    pub fn new(event_type: impl Into<String>, payload: &(impl Serialize + ?Sized)) -> Result<Self, Error> {
        let payload = serde_json::value::to_raw_value(payload)
            .map_err(|error| Error::Invalid(format!("the payload has no JSON form: {error}")))?;
        Ok(Self::from_raw(event_type, payload))
    }

    /// An event whose payload is this JSON text. It is kept byte for byte: numbers of any length, the order of members
    /// and blanks.
    ///
    /// ```
    /// # fn main() -> Result<(), triggers_client::Error> {
    /// let event = triggers_client::Event::from_json("order.created", r#"{"total": 12.50}"#)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`]: it is not JSON.
    pub fn from_json(event_type: impl Into<String>, payload: impl Into<String>) -> Result<Self, Error> {
        let payload = RawValue::from_string(payload.into())
            .map_err(|error| Error::Invalid(format!("the payload is not JSON: {error}")))?;
        Ok(Self::from_raw(event_type, payload))
    }

    /// An event whose payload is JSON text that was read before, such as that of
    /// [`InboxEvent::payload`](crate::InboxEvent::payload).
    #[must_use]
    pub fn from_raw(event_type: impl Into<String>, payload: Box<RawValue>) -> Self {
        Self {
            event_type: event_type.into(),
            payload,
            dedup_id: None,
            timestamp: None,
            source: None,
            ordering_key: None,
            metadata: BTreeMap::new(),
        }
    }

    /// Names the event, in 1 to 255 characters. A second event with this name within 24 hours is a duplicate: it is not
    /// stored, and gets the id of the first one.
    #[must_use]
    pub fn dedup_id(mut self, id: impl Into<String>) -> Self {
        self.dedup_id = Some(id.into());
        self
    }

    /// When it happened, in RFC 3339, such as `2026-11-21T09:00:00Z`. Readers see it as `occurred_at`.
    #[must_use]
    pub fn occurred_at(mut self, timestamp: impl Into<String>) -> Self {
        self.timestamp = Some(timestamp.into());
        self
    }

    /// What produced it, in 1 to 255 characters.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the event is about, such as a customer, in 1 to 255 characters. Readers see it.
    #[must_use]
    pub fn ordering_key(mut self, key: impl Into<String>) -> Self {
        self.ordering_key = Some(key.into());
        self
    }

    /// Adds a pair of metadata. There may be 32, of at most 255 characters each. A name that is set already gets
    /// the new value.
    #[must_use]
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    pub(crate) const fn has_dedup_id(&self) -> bool {
        self.dedup_id.is_some()
    }

    /// The body of the request.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        // Texts and JSON always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The event with this dedup id, unless it has one.
    pub(crate) fn or_dedup_id(self, id: impl FnOnce() -> String) -> Self {
        if self.has_dedup_id() { self } else { self.dedup_id(id()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(event: &Event) -> String {
        String::from_utf8(event.to_json()).unwrap()
    }

    #[test]
    fn a_payload_is_sent_byte_for_byte() {
        let payload = r#"{"b": 1.10, "a":12345678901234567890123, "a": "\u0041"}"#;
        let event = Event::from_json("order.created", payload).unwrap();
        assert_eq!(json(&event), format!(r#"{{"event_type":"order.created","payload":{payload}}}"#));
        assert!(matches!(Event::from_json("a", "{"), Err(Error::Invalid(_))), "text that is not JSON is refused");
    }

    #[test]
    fn each_field_has_its_name_in_the_body() {
        let event = Event::new("a", &[1, 2]).unwrap().dedup_id("d").occurred_at("2026-11-21T09:00:00Z").source("s");
        let event = event.ordering_key("o").metadata("k", "1").metadata("k", "2");
        let wanted = serde_json::json!({"event_type": "a", "payload": [1, 2], "dedup_id": "d", "source": "s",
            "timestamp": "2026-11-21T09:00:00Z", "ordering_key": "o", "metadata": {"k": "2"}});
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json(&event)).unwrap(), wanted);
    }

    #[test]
    fn a_dedup_id_of_the_caller_is_kept() {
        let event = Event::new("a", &1).unwrap();
        let given = |event: Event| event.or_dedup_id(|| "made".to_owned()).dedup_id;
        assert_eq!(given(event.clone()).as_deref(), Some("made"));
        assert_eq!(given(event.dedup_id("mine")).as_deref(), Some("mine"));
    }
}
