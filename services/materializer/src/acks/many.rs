//! `POST /inbox/ack`: acknowledges up to 1,000 events at once, with a result for each.

use std::collections::HashSet;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http_server::{FieldError, JsonBody, Problem, RequestContext};
use schemas::ids::EventId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tenancy::Consumer;
use utoipa::ToSchema;

use super::acknowledge::acknowledge;
use crate::state::InboxState;

const MAX_IDS: usize = 1_000;

/// The events to acknowledge.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AckMany, example = json!({"event_ids": ["0192f0c1-2345-7abc-8def-0123456789ab"]}))]
pub(super) struct AckManyRequest {
    /// Ids of events. One that does not exist fails alone.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 1000)]
    event_ids: Option<Vec<String>>,
    /// Reserved: leases do not exist yet, so a request with this field is refused.
    #[schema(ignore)]
    lease_id: Option<Value>,
}

/// The result for each distinct id, in order.
#[derive(Serialize, ToSchema)]
#[schema(as = AckManyResult, example = json!({
    "acknowledged": 1,
    "failed": 0,
    "results": [{"event_id": "0192f0c1-2345-7abc-8def-0123456789ab", "status": "acknowledged"}]
}))]
struct AckManyResponse {
    /// Results with the status `acknowledged`.
    acknowledged: usize,
    /// Results with another status.
    failed: usize,
    results: Vec<AckResult>,
}

#[derive(Serialize, ToSchema)]
struct AckResult {
    /// As the client wrote it.
    event_id: String,
    /// `acknowledged` or `not_found`.
    status: &'static str,
}

/// Acknowledge up to 1,000 events
///
/// Ids that do not exist fail one by one. Repeated, it gets the same answer.
#[utoipa::path(
    post, path = "/inbox/ack", operation_id = "acknowledge_events", tag = "Consuming",
    request_body = AckManyRequest,
    responses(
        (status = 200, description = "A result for each id.", body = AckManyResponse),
        (status = 202, description = "A result for each id; the inbox may still list some for a moment.",
            body = AckManyResponse),
    ),
    security(("key" = ["consume"])),
)]
pub(super) async fn ack(
    Consumer(caller): Consumer,
    State(state): State<InboxState>,
    context: RequestContext,
    JsonBody(request): JsonBody<AckManyRequest>,
) -> Result<Response, Problem> {
    let requested_ids = distinct(request.requested_ids()?);
    let ids: Vec<EventId> = requested_ids.iter().filter_map(|(_, id)| *id).collect();
    let outcome = acknowledge(&state, &caller, &context, &ids).await?;
    let is_acknowledged = |id: Option<EventId>| id.is_some_and(|id| outcome.acknowledged.contains_key(&id));
    let acknowledged = requested_ids.iter().filter(|(_, id)| is_acknowledged(*id)).count();
    let entry =
        |(event_id, id)| AckResult { event_id, status: if is_acknowledged(id) { "acknowledged" } else { "not_found" } };
    let results: Vec<AckResult> = requested_ids.into_iter().map(entry).collect();
    let status = if outcome.is_shown { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(AckManyResponse { acknowledged, failed: results.len() - acknowledged, results })).into_response())
}

impl AckManyRequest {
    fn requested_ids(self) -> Result<Vec<String>, Problem> {
        if self.lease_id.is_some() {
            return Err(invalid("lease_id", "leases are not available; name the events in event_ids"));
        }
        let requested_ids =
            self.event_ids.ok_or_else(|| invalid("event_ids", "is missing: it names the events to acknowledge"))?;
        if requested_ids.is_empty() || requested_ids.len() > MAX_IDS {
            return Err(invalid("event_ids", "must name 1 to 1000 events"));
        }
        Ok(requested_ids)
    }
}

fn invalid(field: &str, reason: &str) -> Problem {
    let details = vec![FieldError { field: field.to_owned(), reason: reason.to_owned() }];
    Problem::invalid("invalid_request", format!("{field}: {reason}")).with_details(details)
}

/// Removes repeats, in order of first occurrence; spellings of one id are the same id. Text that is no id counts as an
/// unknown id.
fn distinct(requested_ids: Vec<String>) -> Vec<(String, Option<EventId>)> {
    let mut seen = HashSet::new();
    let read = requested_ids.into_iter().map(|text| (text.parse::<EventId>().ok(), text));
    let first = read.filter(|(id, text)| seen.insert(id.map_or_else(|| text.clone(), |id| id.to_string())));
    first.map(|(id, text)| (text, id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requested_ids(body: &str) -> Result<Vec<String>, Problem> {
        serde_json::from_str::<AckManyRequest>(body).unwrap().requested_ids()
    }

    #[test]
    fn accepts_1_to_1000_ids() {
        assert_eq!(requested_ids(r#"{"event_ids": ["a"]}"#).unwrap(), ["a"]);
        let many = |count| format!(r#"{{"event_ids": {:?}}}"#, vec!["a"; count]);
        assert!(requested_ids(&many(1_000)).is_ok());
        for bad in [
            many(1_001),
            many(0),
            "{}".to_owned(),
            r#"{"lease_id": "x"}"#.to_owned(),
            r#"{"lease_id": "x", "event_ids": ["a"]}"#.to_owned(),
        ] {
            assert_eq!(requested_ids(&bad).unwrap_err().error_code(), "invalid_request", "{bad}");
        }
    }

    #[test]
    fn repeated_ids_count_once_in_order_of_first_occurrence() {
        let id = "0192f0c1-2345-7abc-8def-0123456789ab";
        let requested_ids = ["b", id, "b", &id.to_uppercase(), "a"].map(str::to_owned).to_vec();
        assert_eq!(
            distinct(requested_ids),
            [("b".to_owned(), None), (id.to_owned(), id.parse().ok()), ("a".to_owned(), None)]
        );
    }
}
