//! JSON bodies, deserialized into a type.
//!
//! Handlers that must keep bytes verbatim, as those of an event's payload, take a [`RequestBody`] and parse it
//! themselves.

use axum::extract::{FromRequest, OptionalFromRequest, Request};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;
use serde_json::{Map, Value};

use super::body::{EVENT_BODY_BYTES, RequestBody};
use super::members::{self, BodyError};
use super::problem::{FieldError, Problem};

/// A JSON body, deserialized into `T`. `Option<JsonBody<T>>` is `None` for an empty body.
///
/// Rejections: 415 unless the content type is JSON or absent; `invalid_json` with line and column when the body is not
/// JSON; `invalid_request` with the field when the JSON does not fit `T`, when it has a member that `T` does not have
/// (if `T` is a struct), or a member twice at any depth; and those of [`RequestBody`].
#[derive(Debug, Clone)]
pub struct JsonBody<T, const LIMIT: usize = EVENT_BODY_BYTES>(pub T);

impl<S: Sync, T: DeserializeOwned, const LIMIT: usize> FromRequest<S> for JsonBody<T, LIMIT> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = <RequestBody<LIMIT> as FromRequest<S>>::from_request(request, state).await?;
        parse(&body)
    }
}

impl<S: Sync, T: DeserializeOwned, const LIMIT: usize> OptionalFromRequest<S> for JsonBody<T, LIMIT> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        let body = <RequestBody<LIMIT> as FromRequest<S>>::from_request(request, state).await?;
        if body.bytes.is_empty() { Ok(None) } else { parse(&body).map(Some) }
    }
}

/// A JSON object whose members the handler reads one by one. It must refuse those that it does not know:
/// [`JsonObject::refuse_unknown`].
#[derive(Debug, Clone, Deserialize)]
pub struct JsonObject(pub Map<String, Value>);

impl JsonObject {
    /// Refuses the first member that is not among `known`, and names the nearest.
    ///
    /// # Errors
    /// The member and why.
    pub fn refuse_unknown(&self, known: &[&str]) -> Result<(), FieldError> {
        members::first_unknown(self.0.keys(), known).map_or(Ok(()), Err)
    }
}

fn parse<T: DeserializeOwned, const LIMIT: usize>(body: &RequestBody<LIMIT>) -> Result<JsonBody<T, LIMIT>, Problem> {
    if !body.content_type.as_deref().is_none_or(is_json) {
        return Err(Problem::unsupported_media_type("send application/json"));
    }
    members::check(&body.bytes, members::members_of::<T>()).map_err(|error| match error {
        BodyError::Syntax(error) => problem_of(&error, ".", false),
        BodyError::Member(error) => Problem::invalid("invalid_request", error.to_string()).with_details(vec![error]),
    })?;
    let mut deserializer = serde_json::Deserializer::from_slice(&body.bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        // serde_json reports an enum that is no text as a syntax error, although the body is JSON.
        let is_valid = serde_json::from_slice::<IgnoredAny>(&body.bytes).is_ok();
        problem_of(error.inner(), &path, is_valid)
    })?;
    deserializer.end().map_err(|error| problem_of(&error, ".", false))?;
    Ok(JsonBody(value))
}

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let suffix = media_type.len().checked_sub(5).and_then(|at| media_type.get(at..));
    media_type.eq_ignore_ascii_case("application/json")
        || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"))
}

fn problem_of(error: &serde_json::Error, path: &str, is_valid: bool) -> Problem {
    let message = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    let reason = message.strip_suffix(&position).unwrap_or(&message);
    if error.classify() != Category::Data && !is_valid {
        return Problem::invalid("invalid_json", format!("the body is not valid JSON: {message}"));
    }
    let problem = Problem::invalid("invalid_request", format!("the body is not of the expected shape: {message}"));
    match invalid_field(path, reason) {
        Some(field) => problem.with_details(vec![FieldError { field, reason: reason.to_owned() }]),
        None => problem,
    }
}

/// The path of the field that is missing or invalid. serde gives no path for a missing field; its name is in the
/// message.
fn invalid_field(path: &str, reason: &str) -> Option<String> {
    let parent = if path == "." { "" } else { path };
    let missing = reason.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
    match (parent, missing) {
        ("", None) => None,
        ("", Some(name)) => Some(name.to_owned()),
        (parent, None) => Some(parent.to_owned()),
        (parent, Some(name)) => Some(format!("{parent}.{name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_recognized_by_its_media_type() {
        for json in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/cloudevents+json",
            "application/x+JSON;a=b",
        ] {
            assert!(is_json(json), "{json}");
        }
        for other in ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonl", "json"] {
            assert!(!is_json(other), "{other}");
        }
    }

    #[test]
    fn an_unknown_member_of_an_object_is_refused() {
        let object: JsonObject = serde_json::from_str(r#"{"url": "a", "enabeld": true}"#).unwrap();
        assert!(object.refuse_unknown(&["url", "enabeld"]).is_ok());
        let error = object.refuse_unknown(&["url", "enabled"]).unwrap_err();
        assert_eq!(error.to_string(), "enabeld is not a member of this body; did you mean enabled?");
    }

    #[test]
    fn an_invalid_field_has_its_whole_path() {
        assert_eq!(invalid_field(".", "missing field `name`").as_deref(), Some("name"));
        assert_eq!(invalid_field("events[3]", "missing field `type`").as_deref(), Some("events[3].type"));
        assert_eq!(invalid_field("limit", "invalid type: string").as_deref(), Some("limit"));
        assert_eq!(invalid_field(".", "invalid type: sequence"), None);
    }
}
