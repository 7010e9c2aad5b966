//! Responses to an accepted event and to a duplicate.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_server::{Dialect, Problem, Timestamp};
use schemas::ids::EventId;
use schemas::records::DedupKind;
use serde::Serialize;

/// The fields of an accepted event in the response to it and to its duplicates.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    pub(crate) event_id: EventId,
    pub(crate) event_type: String,
    /// Milliseconds since the Unix epoch; `None` when it is not known.
    pub(crate) accepted_at_ms: Option<i64>,
    /// Position token; `None` when the position is not known.
    pub(crate) position: Option<String>,
}

#[derive(Serialize)]
struct ResponseBody<'a> {
    event_id: EventId,
    id: EventId,
    status: &'static str,
    event_type: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: Option<Timestamp>,
    position: Option<&'a str>,
    message: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

impl Accepted {
    fn body(&self, message: &'static str, duplicate: bool) -> Json<ResponseBody<'_>> {
        Json(ResponseBody {
            event_id: self.event_id,
            id: self.event_id,
            status: "accepted",
            event_type: &self.event_type,
            kind: &self.event_type,
            timestamp: self.accepted_at_ms.and_then(Timestamp::from_millis),
            position: self.position.as_deref(),
            message,
            duplicate,
        })
    }

    /// The response to the original.
    pub(crate) fn into_response(self, dialect: Dialect) -> Response {
        match dialect {
            Dialect::Api => (StatusCode::ACCEPTED, self.body("event accepted", false)).into_response(),
            Dialect::Canonical => {
                let mut response = (StatusCode::CREATED, self.body("event accepted", false)).into_response();
                if let Ok(location) = HeaderValue::try_from(format!("/v1/events/{}", self.event_id)) {
                    response.headers_mut().insert(header::LOCATION, location);
                }
                response
            }
        }
    }

    /// The response to a duplicate whose dedup key is of this kind.
    pub(crate) fn into_duplicate(self, kind: DedupKind, dialect: Dialect) -> Response {
        match kind {
            DedupKind::IdempotencyKey => {
                let mut response = self.into_response(dialect);
                response
                    .headers_mut()
                    .insert(HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true"));
                response
            }
            DedupKind::DedupId => {
                let detail =
                    format!("an event with this dedup_id was accepted within the last 24 hours: {}", self.event_id);
                Problem::new(StatusCode::CONFLICT, "duplicate_event", detail)
                    .with_field("event_id", self.event_id)
                    .into_response()
            }
            DedupKind::Content => {
                (StatusCode::OK, self.body("this content was accepted a moment ago", true)).into_response()
            }
        }
    }
}
