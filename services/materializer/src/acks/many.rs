//! `POST /inbox/ack`: acknowledging up to a thousand events at once, with a result for each.

use std::collections::HashSet;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use platform::http::{FieldError, JsonBody, Problem, RequestContext};
use schemas::ids::EventId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tenancy::Caller;

use super::acknowledge::acknowledge;
use crate::inbox::InboxState;

const MAX_IDS: usize = 1_000;

#[derive(Deserialize)]
pub(super) struct Request {
    event_ids: Option<Vec<String>>,
    /// Known by name only: leases cannot be had yet.
    lease_id: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Body {
    acknowledged: usize,
    failed: usize,
    results: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    /// As it was named.
    event_id: String,
    status: &'static str,
}

/// 200; 202 when the view does not show all of it yet. Unknown ids fail one by one.
pub(super) async fn ack(
    State(state): State<InboxState>,
    caller: Caller,
    context: RequestContext,
    JsonBody(request): JsonBody<Request>,
) -> Result<Response, Problem> {
    let named = distinct(request.named()?);
    let known: Vec<EventId> = named.iter().filter_map(|(_, id)| *id).collect();
    let outcome = acknowledge(&state, &caller, &context, &known).await?;
    let is_acknowledged = |id: Option<EventId>| id.is_some_and(|id| outcome.acknowledged.contains_key(&id));
    let acknowledged = named.iter().filter(|(_, id)| is_acknowledged(*id)).count();
    let entry =
        |(event_id, id)| Entry { event_id, status: if is_acknowledged(id) { "acknowledged" } else { "not_found" } };
    let results: Vec<Entry> = named.into_iter().map(entry).collect();
    let status = if outcome.is_shown { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(Body { acknowledged, failed: results.len() - acknowledged, results })).into_response())
}

impl Request {
    fn named(self) -> Result<Vec<String>, Problem> {
        if self.lease_id.is_some() {
            return Err(invalid("lease_id", "leases are not available; name the events in event_ids"));
        }
        let named =
            self.event_ids.ok_or_else(|| invalid("event_ids", "is missing: it names the events to acknowledge"))?;
        if named.is_empty() || named.len() > MAX_IDS {
            return Err(invalid("event_ids", "must name 1 to 1000 events"));
        }
        Ok(named)
    }
}

fn invalid(field: &str, reason: &str) -> Problem {
    let details = vec![FieldError { field: field.to_owned(), reason: reason.to_owned() }];
    Problem::invalid("invalid_request", format!("{field}: {reason}")).with_details(details)
}

/// Each once, however it is spelled, in the order in which they come first. What is no id is as unknown as an id that
/// nobody has.
fn distinct(named: Vec<String>) -> Vec<(String, Option<EventId>)> {
    let mut seen = HashSet::new();
    let read = named.into_iter().map(|text| (text.parse::<EventId>().ok(), text));
    let first = read.filter(|(id, text)| seen.insert(id.map_or_else(|| text.clone(), |id| id.to_string())));
    first.map(|(id, text)| (text, id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(body: &str) -> Result<Vec<String>, Problem> {
        serde_json::from_str::<Request>(body).unwrap().named()
    }

    #[test]
    fn one_to_a_thousand_ids_are_taken() {
        assert_eq!(named(r#"{"event_ids": ["a"]}"#).unwrap(), ["a"]);
        let many = |count| format!(r#"{{"event_ids": {:?}}}"#, vec!["a"; count]);
        assert!(named(&many(1_000)).is_ok());
        for bad in [
            many(1_001),
            many(0),
            "{}".to_owned(),
            r#"{"lease_id": "x"}"#.to_owned(),
            r#"{"lease_id": "x", "event_ids": ["a"]}"#.to_owned(),
        ] {
            assert_eq!(named(&bad).unwrap_err().error_code(), "invalid_request", "{bad}");
        }
    }

    #[test]
    fn what_is_named_twice_counts_once_and_keeps_its_place() {
        let id = "0192f0c1-2345-7abc-8def-0123456789ab";
        let named = ["b", id, "b", &id.to_uppercase(), "a"].map(str::to_owned).to_vec();
        assert_eq!(distinct(named), [("b".to_owned(), None), (id.to_owned(), id.parse().ok()), ("a".to_owned(), None)]);
    }
}
