//! Converts a request into an event that may be appended: parses the body, applies the restrictions of the key, and
//! determines the dedup key.
//!
//! Pure: no I/O. A checked event has its own type, so that no unchecked event can reach the log.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_server::{FieldError, Problem};
use schemas::cloudevents;
use schemas::event_json::{self, Invalid, NewEvent};
use schemas::ids::EventId;
use schemas::records::{Dedup, Event};
use tenancy::Caller;

/// An event that passed all checks.
pub(crate) struct Admitted {
    pub(crate) event: Event,
}

const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The name in some older trigger APIs. Unread, a retry of their clients would be a second event.
const X_IDEMPOTENCY_KEY: &str = "x-idempotency-key";
const MAX_KEY_CHARACTERS: usize = 255;
/// CloudEvents' extension for distributed tracing.
const TRACE_ATTRIBUTES: [&str; 2] = ["traceparent", "tracestate"];

/// How the body of `POST /events` may be written.
pub(crate) enum Form<'a> {
    /// Our own JSON.
    Json,
    /// A CloudEvent in JSON.
    Structured,
    /// A CloudEvent whose attributes are headers; its data may be of any content type.
    Binary { content_type: Option<&'a str> },
    /// A batch of CloudEvents in JSON.
    Batch,
}

const CLOUDEVENTS: &str = "application/cloudevents";
pub(crate) const CLOUDEVENTS_BATCH: &str = "application/cloudevents-batch+json";

impl<'a> Form<'a> {
    /// Determines the form as the HTTP binding of CloudEvents specifies: a CloudEvents content type takes precedence
    /// over `ce-*` headers.
    ///
    /// # Errors
    /// 415 for an unsupported content type.
    pub(crate) fn of(headers: &'a HeaderMap) -> Result<Self, Problem> {
        let content_type = content_type(headers).map_err(|()| unsupported())?;
        let media_type = content_type.map(media_type);
        let is = |name: &str| media_type.is_some_and(|given| given.eq_ignore_ascii_case(name));
        let is_of_cloudevents = media_type
            .and_then(|given| given.get(..CLOUDEVENTS.len()))
            .is_some_and(|prefix| prefix.eq_ignore_ascii_case(CLOUDEVENTS));
        if is("application/cloudevents+json") {
            Ok(Self::Structured)
        } else if !is_of_cloudevents && headers.contains_key("ce-specversion") {
            Ok(Self::Binary { content_type })
        } else if media_type.is_none() || is("application/json") {
            Ok(Self::Json)
        } else if is(CLOUDEVENTS_BATCH) {
            Ok(Self::Batch)
        } else {
            Err(unsupported())
        }
    }
}

/// The header `Content-Type`. The error: it is not ASCII.
pub(crate) fn content_type(headers: &HeaderMap) -> Result<Option<&str>, ()> {
    headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str).transpose().map_err(|_| ())
}

/// Type and subtype, without parameters.
pub(crate) fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn unsupported() -> Problem {
    Problem::unsupported_media_type(
        "send application/json, or CloudEvents as application/cloudevents+json, as \
         application/cloudevents-batch+json, or with ce-* headers",
    )
}

/// Checks the request and creates the event with a new id.
pub(crate) fn admit(
    caller: &Caller,
    headers: &HeaderMap,
    form: &Form<'_>,
    body: &[u8],
    traceparent: Option<String>,
) -> Result<Admitted, Problem> {
    let parsed = match form {
        Form::Json => event_json::parse(body),
        Form::Binary { content_type } => binary(headers, *content_type, body),
        Form::Structured | Form::Batch => cloudevents::structured(body),
    };
    let new = allowed(caller, parsed)?;
    let fingerprint_input = fingerprint_input(headers, form, body);
    Ok(admitted(caller, new, idempotency_key(headers)?, &fingerprint_input, traceparent))
}

/// Checks one item of a batch and creates its event with a new id. `text`: the item as it is in the body.
pub(crate) fn admit_item(
    caller: &Caller,
    text: &[u8],
    parsed: Result<NewEvent, Invalid>,
    traceparent: Option<String>,
) -> Result<Admitted, Problem> {
    let new = allowed(caller, parsed)?;
    Ok(admitted(caller, new, None, text, traceparent))
}

/// The event, if it is valid and the key may send it.
fn allowed(caller: &Caller, parsed: Result<NewEvent, Invalid>) -> Result<NewEvent, Problem> {
    let new = parsed.map_err(|invalid| problem_of(invalid, "invalid_event"))?;
    if !caller.allows_event_type(&new.event_type) {
        return Err(Problem::forbidden("this key is restricted to other event types"));
    }
    Ok(new)
}

fn admitted(
    caller: &Caller,
    mut new: NewEvent,
    idempotency_key: Option<String>,
    fingerprint_input: &[u8],
    traceparent: Option<String>,
) -> Admitted {
    let dedup = dedup_of(caller.content_dedup, idempotency_key, &mut new, fingerprint_input);
    Admitted { event: new.into_event(caller.org_id, EventId::generate(), dedup, traceparent) }
}

fn binary(headers: &HeaderMap, content_type: Option<&str>, body: &[u8]) -> Result<NewEvent, Invalid> {
    let mut attributes: Vec<(&str, Cow<'_, str>)> = Vec::new();
    for (header, value) in headers {
        let Some(name) = header.as_str().strip_prefix("ce-") else { continue };
        // Refused rather than skipped: no attribute is dropped silently.
        let Some(text) = value.to_str().ok().and_then(cloudevents::percent_decoded) else {
            let reason = "must be ASCII, and anything else percent-encoded UTF-8".to_owned();
            return Err(Invalid::Fields(vec![event_json::FieldError { field: header.as_str().to_owned(), reason }]));
        };
        attributes.push((name, text));
    }
    cloudevents::binary(attributes.iter().map(|(name, value)| (*name, value.as_ref())), content_type, Some(body))
}

/// The bytes that must be equal in a duplicate: the body and, in binary mode, the content type and the attributes in
/// headers. Trace attributes are left out: each retry may have its own trace.
fn fingerprint_input<'a>(headers: &HeaderMap, form: &Form<'_>, body: &'a [u8]) -> Cow<'a, [u8]> {
    let Form::Binary { content_type } = form else { return Cow::Borrowed(body) };
    let attribute = |(header, value): (&'_ HeaderName, &'_ HeaderValue)| {
        let name = header.as_str().strip_prefix("ce-").filter(|name| !TRACE_ATTRIBUTES.contains(name))?;
        // Headers hold no line breaks, so two different requests never give the same bytes.
        Some([name.as_bytes(), b":", value.as_bytes(), b"\n"].concat())
    };
    let mut parts: Vec<Vec<u8>> = headers.iter().filter_map(attribute).collect();
    parts.sort_unstable();
    parts.extend([content_type.unwrap_or_default().as_bytes().to_vec(), b"\n".to_vec(), body.to_vec()]);
    Cow::Owned(parts.concat())
}

/// Whether the request has an idempotency key, valid or not.
pub(crate) fn has_idempotency_key(headers: &HeaderMap) -> bool {
    headers.contains_key(IDEMPOTENCY_KEY) || headers.contains_key(X_IDEMPOTENCY_KEY)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter().chain(headers.get_all(X_IDEMPOTENCY_KEY));
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

/// The dedup key of the event: the idempotency key, else the `dedup_id`, else the content. A `dedup_id` beside an
/// idempotency key is only stored for display.
fn dedup_of(
    content_dedup: bool,
    idempotency_key: Option<String>,
    new: &mut NewEvent,
    fingerprint_input: &[u8],
) -> Option<Dedup> {
    if let Some(key) = idempotency_key {
        Some(Dedup { dedup_id: new.dedup_id.take(), ..Dedup::idempotency_key(key, fingerprint_input) })
    } else if let Some(id) = new.dedup_id.take() {
        Some(Dedup::dedup_id(id, fingerprint_input))
    } else if content_dedup {
        Some(Dedup::content(&new.event_type, &new.payload, new.payload_encoding))
    } else {
        None
    }
}

/// `code`: the error code when fields break a rule.
pub(crate) fn problem_of(invalid: Invalid, code: &'static str) -> Problem {
    let detail = invalid.to_string();
    match invalid {
        Invalid::Malformed { .. } => Problem::invalid("invalid_json", detail),
        Invalid::PayloadTooLarge { .. } => Problem::payload_too_large(detail),
        Invalid::Fields(fields) => {
            let details =
                fields.into_iter().map(|field| FieldError { field: field.field, reason: field.reason }).collect();
            Problem::invalid(code, detail).with_details(details)
        }
    }
}
