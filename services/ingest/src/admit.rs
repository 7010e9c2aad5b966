//! From a request to an event that may be appended: reads the body in whatever form it has, applies the caller's restrictions, names repeats.
//!
//! Pure: no I/O. A value that passed has another type, so that nothing unchecked can reach the log.

use std::borrow::Cow;

use http::{HeaderMap, header};
use platform::http::{FieldError, Problem};
use schemas::cloudevents;
use schemas::event_json::{self, Invalid, NewEvent};
use schemas::ids::{EventId, OrgId};
use schemas::records::{Dedup, Event};
use tenancy::Caller;

/// An event that met every rule.
pub(crate) struct Admitted {
    /// Ready to be encoded.
    pub(crate) event: Event,
}

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const MAX_KEY_CHARACTERS: usize = 255;

/// Checks the request and makes the event with a new id.
pub(crate) fn admit(
    caller: &Caller,
    headers: &HeaderMap,
    content_type: Option<&str>,
    body: &[u8],
    traceparent: Option<String>,
) -> Result<Admitted, Problem> {
    let mut new = read(headers, content_type, body).map_err(refusal)?;
    if !caller.may_see(&new.event_type) {
        return Err(Problem::forbidden("this key is restricted to other event types"));
    }
    let dedup = name_repeat(caller.content_dedup, idempotency_key(headers)?, &mut new, body);
    let org_id: OrgId = caller.org_id;
    Ok(Admitted { event: new.into_event(org_id, EventId::generate(), dedup, traceparent) })
}

/// Tells the three forms of a single event apart: binary CloudEvent by its headers, structured by its content type, else plain JSON.
fn read(headers: &HeaderMap, content_type: Option<&str>, body: &[u8]) -> Result<NewEvent, Invalid> {
    let media_type = content_type.map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    if headers.contains_key("ce-specversion") {
        // A value that is not text, or is badly escaped, cannot be an attribute; a required one is then found missing.
        let values: Vec<(&str, Cow<'_, str>)> = headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().strip_prefix("ce-")?, cloudevents::percent_decoded(value.to_str().ok()?)?)))
            .collect();
        let attributes = values.iter().map(|(name, value)| (*name, value.as_ref()));
        return cloudevents::binary(attributes, content_type, body);
    }
    match media_type.as_deref() {
        Some("application/cloudevents+json") => cloudevents::structured(body),
        _ => event_json::parse(body),
    }
}

/// Whether a body of this content type is read at all; a binary CloudEvent's data may be of any.
pub(crate) fn is_readable(headers: &HeaderMap) -> bool {
    if headers.contains_key("ce-specversion") {
        return true;
    }
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let Ok(value) = value.to_str() else { return false };
    let media_type = value.split(';').next().unwrap_or_default().trim();
    ["application/json", "application/cloudevents+json"].iter().any(|known| media_type.eq_ignore_ascii_case(known))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let invalid = |reason: &str| {
        let details = vec![FieldError { field: "Idempotency-Key".to_owned(), reason: reason.to_owned() }];
        Problem::invalid("invalid_request", format!("Idempotency-Key {reason}")).with_details(details)
    };
    if values.next().is_some() {
        return Err(invalid("is given more than once"));
    }
    let key = std::str::from_utf8(value.as_bytes()).map_err(|_| invalid("is not UTF-8"))?.trim();
    let length = key.chars().count();
    if length == 0 || length > MAX_KEY_CHARACTERS || key.chars().any(char::is_control) {
        return Err(invalid("must have 1 to 255 characters, none of them a control character"));
    }
    Ok(Some(key.to_owned()))
}

/// The way in with the highest precedence names the repeat; the others are not looked at.
fn name_repeat(content_dedup: bool, idempotency_key: Option<String>, new: &mut NewEvent, body: &[u8]) -> Option<Dedup> {
    if let Some(key) = idempotency_key {
        Some(Dedup::idempotency_key(key, body))
    } else if let Some(id) = new.dedup_id.take() {
        Some(Dedup::dedup_id(id, body))
    } else if content_dedup {
        Some(Dedup::content(&new.event_type, &new.payload))
    } else {
        None
    }
}

fn refusal(invalid: Invalid) -> Problem {
    let detail = invalid.to_string();
    match invalid {
        Invalid::Malformed { .. } => Problem::invalid("invalid_json", detail),
        Invalid::PayloadTooLarge { .. } => Problem::payload_too_large(detail),
        Invalid::Fields(fields) => {
            let details = fields.into_iter().map(|field| FieldError { field: field.field, reason: field.reason }).collect();
            Problem::invalid("invalid_event", detail).with_details(details)
        }
    }
}
