//! Bodies that are JSON of a known shape.
//!
//! Where bytes must be kept verbatim, as in an event's payload, the handler takes the plain body and parses it itself.

use axum::extract::{FromRequest, OptionalFromRequest, Request};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Value};

use super::body::{Body, EVENT_BODY_BYTES};
use super::problem::{FieldError, Problem};

/// A JSON body, read into `T`. As `Option<JsonBody<T>>` it is `None` for an empty body.
///
/// Refusals: 415 unless the content type is JSON or absent, `invalid_json` with the place for what is not JSON,
/// `invalid_request` with the field to blame for JSON of another shape, and those of [`Body`].
#[derive(Debug, Clone)]
pub struct JsonBody<T, const LIMIT: usize = EVENT_BODY_BYTES>(pub T);

impl<S: Sync, T: DeserializeOwned, const LIMIT: usize> FromRequest<S> for JsonBody<T, LIMIT> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = <Body<LIMIT> as FromRequest<S>>::from_request(request, state).await?;
        parse(&body)
    }
}

impl<S: Sync, T: DeserializeOwned, const LIMIT: usize> OptionalFromRequest<S> for JsonBody<T, LIMIT> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        let body = <Body<LIMIT> as FromRequest<S>>::from_request(request, state).await?;
        if body.bytes.is_empty() { Ok(None) } else { parse(&body).map(Some) }
    }
}

/// A JSON object whose fields are read one by one. A field that is given twice is refused: which of the two was meant
/// nobody knows.
#[derive(Debug, Clone)]
pub struct JsonObject(pub Map<String, Value>);

impl<'de> Deserialize<'de> for JsonObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = JsonObject;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<JsonObject, A::Error> {
                let mut fields = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if fields.contains_key(&name) {
                        return Err(A::Error::custom(format!("field `{name}` is given twice")));
                    }
                    fields.insert(name, value);
                }
                Ok(JsonObject(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

fn parse<T: DeserializeOwned, const LIMIT: usize>(body: &Body<LIMIT>) -> Result<JsonBody<T, LIMIT>, Problem> {
    if !body.content_type.as_deref().is_none_or(is_json) {
        return Err(Problem::unsupported_media_type("send application/json"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(&body.bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        refusal(error.inner(), &path)
    })?;
    deserializer.end().map_err(|error| refusal(&error, "."))?;
    Ok(JsonBody(value))
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let suffix = essence.len().checked_sub(5).and_then(|at| essence.get(at..));
    essence.eq_ignore_ascii_case("application/json")
        || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"))
}

fn refusal(error: &serde_json::Error, path: &str) -> Problem {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let reason = message.strip_suffix(&place).unwrap_or(&message);
    if error.classify() != Category::Data {
        return Problem::invalid("invalid_json", format!("the body is not valid JSON: {message}"));
    }
    let problem = Problem::invalid("invalid_request", format!("the body is not of the expected shape: {message}"));
    match blamed(path, reason) {
        Some(field) => problem.with_details(vec![FieldError { field, reason: reason.to_owned() }]),
        None => problem,
    }
}

/// The field to blame. An absent field has no path of its own: its name stands in the message.
fn blamed(path: &str, reason: &str) -> Option<String> {
    let parent = if path == "." { "" } else { path };
    let absent = reason.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
    match (parent, absent) {
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
    fn json_is_told_by_its_essence() {
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
    fn a_field_given_twice_is_refused() {
        assert!(serde_json::from_str::<JsonObject>(r#"{"url": "a", "enabled": true}"#).is_ok());
        let error = serde_json::from_str::<JsonObject>(r#"{"url": "a", "url": "b"}"#).unwrap_err();
        assert!(error.to_string().contains("`url` is given twice"), "{error}");
    }

    #[test]
    fn the_blamed_field_has_its_whole_path() {
        assert_eq!(blamed(".", "missing field `name`").as_deref(), Some("name"));
        assert_eq!(blamed("events[3]", "missing field `type`").as_deref(), Some("events[3].type"));
        assert_eq!(blamed("limit", "invalid type: string").as_deref(), Some("limit"));
        assert_eq!(blamed(".", "invalid type: sequence"), None);
    }
}
