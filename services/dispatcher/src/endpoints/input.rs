//! Validates the fields that a client writes to an endpoint. Pure.

use http_server::{FieldError, JsonObject};
use serde_json::Value;
use time::OffsetDateTime;

use super::compat_signature::{self, CompatSignature};
use super::event_types::check_pattern;
use super::filter;
use super::headers::{self, Headers};
use super::receiver_auth::{self, ReceiverAuth};
use crate::attempt::egress::EgressPolicy;
use crate::batch::settings::BatchSettings;

/// Timeout of one request if the endpoint has none of its own, seconds.
pub(crate) const DEFAULT_TIMEOUT_SECONDS: u32 = 10;
pub(crate) const MAX_TIMEOUT_SECONDS: u32 = 30;
pub(super) const MAX_PATTERNS: usize = 100;
const MAX_DESCRIPTION_CHARACTERS: usize = 1000;
/// Attempts of one endpoint at the same time. Endpoints from before this bound may have stored more.
pub(crate) const MAX_IN_FLIGHT: u16 = 100;
const MAX_RATE_PER_SECOND: u32 = 1000;
const MAX_RETRIES: usize = 20;
const MAX_DELAY_SECONDS: u32 = 86_400;

/// All members of a request body.
const MEMBERS: &[&str] = &[
    "url",
    "event_types",
    "filter",
    "description",
    "headers",
    "auth",
    "compat_signature",
    "ordered",
    "max_in_flight",
    "rate_limit_per_second",
    "timeout_seconds",
    "retry_schedule",
    "ack_on_success",
    "enabled",
    "batch",
];

/// The valid fields of a request; `None`: the request does not have the field.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct EndpointPatch {
    /// Normalized.
    pub url: Option<String>,
    /// Patterns; empty: all event types.
    pub event_types: Option<Vec<String>>,
    /// A valid filter. Inner `None`: all payloads.
    pub filter: Option<Option<Value>>,
    pub description: Option<Option<String>>,
    pub headers: Option<Headers>,
    /// Inner `None`: only the signature.
    pub auth: Option<Option<ReceiverAuth>>,
    /// Inner `None`: only ours.
    pub compat_signature: Option<Option<CompatSignature>>,
    pub ordered: Option<bool>,
    pub ack_on_success: Option<bool>,
    /// Inner `None`: the dispatcher's default.
    pub max_in_flight: Option<Option<u32>>,
    /// Inner `None`: no limit.
    pub rate_limit_per_second: Option<Option<u32>>,
    pub timeout_seconds: Option<u32>,
    /// Delays before the retries, seconds.
    pub retry_schedule: Option<Vec<u32>>,
    pub enabled: Option<bool>,
    /// Inner `None`: each request has one event.
    pub batch: Option<Option<BatchSettings>>,
}

impl EndpointPatch {
    /// Reads the fields of a new endpoint, where `null` is the same as absent.
    ///
    /// # Errors
    /// Every invalid field.
    pub(crate) fn read_new(
        mut object: JsonObject,
        policy: &EgressPolicy,
        now: OffsetDateTime,
    ) -> Result<Self, Vec<FieldError>> {
        object.refuse_unknown(MEMBERS).map_err(|error| vec![error])?;
        object.0.retain(|_, value| !value.is_null());
        Self::read(&object, policy, now)
    }

    /// Reads the fields of a change. `null` is refused, except for fields that may be empty.
    ///
    /// # Errors
    /// Every invalid field.
    pub(crate) fn read(
        object: &JsonObject,
        policy: &EgressPolicy,
        now: OffsetDateTime,
    ) -> Result<Self, Vec<FieldError>> {
        object.refuse_unknown(MEMBERS).map_err(|error| vec![error])?;
        let mut fields = Fields { object, errors: Vec::new() };
        let patch = Self {
            url: fields.take("url", |value| url(value, policy)),
            event_types: fields.take("event_types", event_types),
            filter: fields.take_object("filter", |value| filter::read(value, "filter").map(|_compiled| value.clone())),
            description: fields.take_nullable("description", description),
            headers: fields.take("headers", headers::read),
            auth: fields.take_object("auth", |value| receiver_auth::read(value, policy, now)),
            compat_signature: fields.take_object("compat_signature", compat_signature::read),
            ordered: fields.take("ordered", flag),
            ack_on_success: fields.take("ack_on_success", flag),
            max_in_flight: fields.take_nullable("max_in_flight", |value| number(value, 1, u32::from(MAX_IN_FLIGHT))),
            rate_limit_per_second: fields
                .take_nullable("rate_limit_per_second", |value| number(value, 1, MAX_RATE_PER_SECOND)),
            timeout_seconds: fields.take("timeout_seconds", |value| number(value, 1, MAX_TIMEOUT_SECONDS)),
            retry_schedule: fields.take("retry_schedule", retry_schedule),
            enabled: fields.take("enabled", flag),
            batch: fields.take_batch(),
        };
        if fields.errors.is_empty() { Ok(patch) } else { Err(fields.errors) }
    }
}

/// Reads fields and collects the errors.
struct Fields<'a> {
    object: &'a JsonObject,
    errors: Vec<FieldError>,
}

impl Fields<'_> {
    fn take<T>(&mut self, name: &str, read: impl FnOnce(&Value) -> Result<T, String>) -> Option<T> {
        match read(self.object.0.get(name)?) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.errors.push(FieldError::new(name, reason));
                None
            }
        }
    }

    fn take_nullable<T>(&mut self, name: &str, read: impl FnOnce(&Value) -> Result<T, String>) -> Option<Option<T>> {
        self.take(name, |value| if value.is_null() { Ok(None) } else { read(value).map(Some) })
    }

    /// A field that may be empty, and whose errors have places within it.
    fn take_object<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&Value) -> Result<T, Vec<FieldError>>,
    ) -> Option<Option<T>> {
        let value = self.object.0.get(name)?;
        if value.is_null() {
            return Some(None);
        }
        match read(value) {
            Ok(read) => Some(Some(read)),
            Err(errors) => {
                self.errors.extend(errors);
                None
            }
        }
    }

    fn take_batch(&mut self) -> Option<Option<BatchSettings>> {
        let value = self.object.0.get("batch")?;
        if value.is_null() {
            return Some(None);
        }
        BatchSettings::read(value, "batch").map(Some).map_err(|errors| self.errors.extend(errors)).ok()
    }
}

/// Validates the URL of an endpoint.
///
/// # Errors
/// Why it is refused.
pub(crate) fn url(value: &Value, policy: &EgressPolicy) -> Result<String, String> {
    let text = value.as_str().ok_or("must be a text")?;
    policy.check_url(text).map(Into::into).map_err(|problem| problem.to_string())
}

fn event_types(value: &Value) -> Result<Vec<String>, String> {
    let list = value.as_array().ok_or("must be a list of texts")?;
    if list.len() > MAX_PATTERNS {
        return Err(format!("must name at most {MAX_PATTERNS} types"));
    }
    list.iter().map(pattern).collect()
}

fn pattern(value: &Value) -> Result<String, String> {
    let text = value.as_str().ok_or("must be a list of texts")?;
    check_pattern(text)?;
    Ok(text.to_owned())
}

fn description(value: &Value) -> Result<String, String> {
    let text = value.as_str().ok_or("must be a text")?;
    if text.chars().count() > MAX_DESCRIPTION_CHARACTERS || text.contains('\0') {
        return Err(format!("must have at most {MAX_DESCRIPTION_CHARACTERS} characters"));
    }
    Ok(text.to_owned())
}

fn number(value: &Value, min: u32, max: u32) -> Result<u32, String> {
    let number =
        value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| format!("must be a whole number from {min} to {max}"))
}

fn flag(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "must be true or false".to_owned())
}

fn retry_schedule(value: &Value) -> Result<Vec<u32>, String> {
    let list = value.as_array().ok_or("must be a list of delays in seconds")?;
    if list.len() > MAX_RETRIES {
        return Err(format!("must have at most {MAX_RETRIES} delays"));
    }
    list.iter().map(|delay| number(delay, 1, MAX_DELAY_SECONDS).map_err(|reason| format!("each {reason}"))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-29 0:00 UTC);

    fn policy() -> EgressPolicy {
        EgressPolicy::default()
    }

    fn read(value: &Value) -> Result<EndpointPatch, Vec<FieldError>> {
        EndpointPatch::read(&JsonObject(value.as_object().unwrap().clone()), &policy(), NOW)
    }

    fn read_new(value: &Value) -> Result<EndpointPatch, Vec<FieldError>> {
        EndpointPatch::read_new(JsonObject(value.as_object().unwrap().clone()), &policy(), NOW)
    }

    fn invalid_fields(value: &Value) -> Vec<String> {
        read(value).unwrap_err().into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn given_fields_are_read_and_the_others_are_none() {
        let patch = read(&json!({
            "url": "https://example.com/hook#x", "event_types": ["order.*"], "description": "d",
            "filter": {"path": "a", "gte": 1},
            "headers": {"X-Token": "t 1"}, "auth": {"type": "bearer", "token": "t"},
            "compat_signature": {"format": "sha256-hex", "header": "x-sig"},
            "max_in_flight": 3, "timeout_seconds": 30, "retry_schedule": [], "batch": {"max_events": 5},
            "enabled": false, "ordered": false, "ack_on_success": true, "rate_limit_per_second": 1000,
        }));
        let wanted = EndpointPatch {
            url: Some("https://example.com/hook".to_owned()),
            event_types: Some(vec!["order.*".to_owned()]),
            filter: Some(Some(json!({"path": "a", "gte": 1}))),
            description: Some(Some("d".to_owned())),
            headers: Some(vec![("x-token".to_owned(), "t 1".to_owned())]),
            auth: Some(Some(ReceiverAuth::Bearer { token: "t".to_owned() })),
            compat_signature: Some(Some(CompatSignature {
                format: compat_signature::CompatFormat::Sha256Hex,
                header: "x-sig".to_owned(),
                secret: None,
            })),
            ordered: Some(false),
            ack_on_success: Some(true),
            max_in_flight: Some(Some(3)),
            rate_limit_per_second: Some(Some(1000)),
            timeout_seconds: Some(30),
            retry_schedule: Some(Vec::new()),
            enabled: Some(false),
            batch: Some(Some(BatchSettings { max_events: 5, ..BatchSettings::default() })),
        };
        assert_eq!(patch.unwrap(), wanted);
        assert_eq!(read(&json!({})).unwrap(), EndpointPatch::default());
    }

    #[test]
    fn null_changes_only_what_may_be_empty() {
        let nullable = json!({"description": null, "max_in_flight": null, "filter": null, "rate_limit_per_second": null,
                   "auth": null, "compat_signature": null, "batch": null});
        let wanted = EndpointPatch {
            description: Some(None),
            filter: Some(None),
            auth: Some(None),
            compat_signature: Some(None),
            max_in_flight: Some(None),
            rate_limit_per_second: Some(None),
            batch: Some(None),
            ..EndpointPatch::default()
        };
        assert_eq!(read(&nullable).unwrap(), wanted);
        let others = [
            "url",
            "event_types",
            "headers",
            "ordered",
            "timeout_seconds",
            "retry_schedule",
            "ack_on_success",
            "enabled",
        ];
        for name in others {
            assert_eq!(invalid_fields(&json!({ name: null })), [name]);
            assert_eq!(read_new(&json!({ name: null })).unwrap(), EndpointPatch::default(), "{name} of a new endpoint");
        }
    }

    #[test]
    fn unknown_fields_are_refused_and_the_nearest_is_named() {
        let reason = "is not a member of this body; did you mean event_types?";
        for errors in [read(&json!({"event_type": ["a"]})), read_new(&json!({"url": "x", "event_type": null}))] {
            assert_eq!(errors.unwrap_err(), [FieldError::new("event_type", reason)]);
        }
    }

    #[test]
    fn every_invalid_field_is_named() {
        let all = json!({
            "url": "ftp://x", "event_types": [""], "description": 1, "headers": [], "ordered": 1,
            "ack_on_success": "a", "max_in_flight": 0,
            "timeout_seconds": 31, "retry_schedule": [0], "enabled": "yes", "batch": {"max_events": 1001},
        });
        let fields = [
            "url",
            "event_types",
            "description",
            "headers",
            "ordered",
            "ack_on_success",
            "max_in_flight",
            "timeout_seconds",
            "retry_schedule",
            "enabled",
            "batch.max_events",
        ];
        assert_eq!(invalid_fields(&all), fields);
        assert_eq!(invalid_fields(&json!({"url": null})), ["url"]);
        assert_eq!(invalid_fields(&json!({"event_types": ["a", "or*der"]})), ["event_types"]);
        assert_eq!(invalid_fields(&json!({"max_in_flight": 101})), ["max_in_flight"]);
        for rate in [json!(0), json!(1001), json!(0.5), json!("5")] {
            assert_eq!(invalid_fields(&json!({"rate_limit_per_second": rate})), ["rate_limit_per_second"]);
        }
        let filter = json!({"all": [{"path": "a", "exists": true}, {"path": "b", "gte": "1", "near": 1}]});
        assert_eq!(invalid_fields(&json!({ "filter": filter })), ["filter.all[1].gte"]);
        assert_eq!(invalid_fields(&json!({"timeout_seconds": 1.5})), ["timeout_seconds"]);
        assert_eq!(invalid_fields(&json!({"retry_schedule": vec![1; 21]})), ["retry_schedule"]);
    }
}
