//! JSON bodies, deserialized into a type.
//!
//! Handlers that must keep bytes verbatim, as those of an event's payload, take a [`RequestBody`] and parse it
//! themselves.

use axum::extract::{FromRequest, OptionalFromRequest, Request};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::body::{EVENT_BODY_BYTES, RequestBody};
use super::members::{self, BodyError};
use super::problem::{FieldError, Problem};
use super::shape;

/// A JSON body, deserialized into `T`. `Option<JsonBody<T>>` is `None` for an empty body.
///
/// Rejections: 415 unless the content type is JSON or absent; `invalid_json` with line and column when the body is not
/// JSON; `invalid_request` with the field and what is wanted when the JSON does not fit `T` (an array never fits a
/// struct), when it has a member that `T` does not have (if `T` is a struct), or a member twice at any depth; and those
/// of [`RequestBody`].
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
        BodyError::Syntax(error) => syntax_problem(&error),
        BodyError::Member(error) => member_problem(error),
    })?;
    let value = serde_json::from_slice(&body.bytes).map_err(|error| syntax_problem(&error))?;
    shape::read(value).map(JsonBody).map_err(member_problem)
}

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let suffix = media_type.len().checked_sub(5).and_then(|at| media_type.get(at..));
    media_type.eq_ignore_ascii_case("application/json")
        || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"))
}

/// These texts are about the JSON itself and name no type of this program.
fn syntax_problem(error: &serde_json::Error) -> Problem {
    Problem::invalid("invalid_json", format!("the body is not valid JSON: {error}"))
}

fn member_problem(error: FieldError) -> Problem {
    if error.field.is_empty() {
        return Problem::invalid("invalid_request", format!("the body {}", error.reason));
    }
    Problem::invalid("invalid_request", error.to_string()).with_details(vec![error])
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
}
