//! Responses to an accepted event and to a duplicate.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_server::{Dialect, Problem, Timestamp};
use runtime::seal::{SealingKey, StableTokens};
use schemas::ids::{EventId, OrgId};
use schemas::position::TOKEN_PURPOSE;
use schemas::records::DedupKind;
use serde::Serialize;
use utoipa::ToSchema;

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

/// Makes the position tokens of an organization, as the view makes them too.
pub(crate) fn position_tokens(sealing: &SealingKey, organization: OrgId) -> StableTokens {
    sealing.stable_tokens(TOKEN_PURPOSE, organization.as_uuid().as_bytes())
}

/// The outcome of a request, or of an item of a batch, whose event is on the log.
#[derive(Debug)]
pub(crate) enum Outcome {
    Accepted(Accepted),
    /// The fields of the original, and the kind of the dedup key.
    Duplicate(Accepted, DedupKind),
    /// A duplicate, by its `dedup_id`, of an event that the key may not see.
    HiddenDuplicate,
}

impl Outcome {
    /// The response of a mount to a single event.
    pub(crate) fn into_response(self, dialect: Dialect) -> Response {
        match self {
            Self::Accepted(accepted) => accepted.into_response(dialect),
            Self::Duplicate(original, kind) => original.into_duplicate(kind, dialect),
            Self::HiddenDuplicate => duplicate_problem(None).into_response(),
        }
    }
}

pub(crate) const ACCEPTED: &str = "event accepted";
pub(crate) const SAME_CONTENT: &str = "this content was accepted a moment ago";

/// An accepted event.
#[derive(Serialize, ToSchema)]
#[schema(as = Accepted, example = json!({
    "event_id": "0192f0c1-2345-7abc-8def-0123456789ab",
    "id": "0192f0c1-2345-7abc-8def-0123456789ab",
    "status": "accepted",
    "event_type": "order.created",
    "type": "order.created",
    "timestamp": "2026-11-21T09:00:00.123Z",
    "position": "q83vEjRWeJA",
    "message": "event accepted"
}))]
pub(crate) struct AcceptedBody<'a> {
    event_id: EventId,
    /// The same as `event_id`.
    id: EventId,
    /// Always `accepted`.
    status: &'static str,
    event_type: &'a str,
    /// The same as `event_type`.
    #[serde(rename = "type")]
    kind: &'a str,
    /// When the log accepted it; null if that is not known.
    timestamp: Option<Timestamp>,
    /// Position token for `min_position`; null if the position is not known.
    position: Option<&'a str>,
    message: &'static str,
    /// True if an event with the same content was accepted before; else absent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

impl Accepted {
    fn body(&self, message: &'static str, duplicate: bool) -> Json<AcceptedBody<'_>> {
        Json(AcceptedBody {
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
    fn into_response(self, dialect: Dialect) -> Response {
        match dialect {
            Dialect::Api => (accepted_status(dialect), self.body(ACCEPTED, false)).into_response(),
            Dialect::Canonical => {
                let mut response = (accepted_status(dialect), self.body(ACCEPTED, false)).into_response();
                if let Ok(location) = HeaderValue::try_from(format!("/v1/events/{}", self.event_id)) {
                    response.headers_mut().insert(header::LOCATION, location);
                }
                response
            }
        }
    }

    /// The response to a duplicate whose dedup key is of this kind.
    fn into_duplicate(self, kind: DedupKind, dialect: Dialect) -> Response {
        match kind {
            DedupKind::IdempotencyKey => {
                let mut response = self.into_response(dialect);
                response
                    .headers_mut()
                    .insert(HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true"));
                response
            }
            DedupKind::DedupId => duplicate_problem(Some(self.event_id)).into_response(),
            DedupKind::Content => (StatusCode::OK, self.body(SAME_CONTENT, true)).into_response(),
        }
    }
}

/// The status of an accepted event.
pub(crate) fn accepted_status(dialect: Dialect) -> StatusCode {
    match dialect {
        Dialect::Api => StatusCode::ACCEPTED,
        Dialect::Canonical => StatusCode::CREATED,
    }
}

/// The answer to an event with the `dedup_id` of `original`; `None`: the key may not see that event.
pub(crate) fn duplicate_problem(original: Option<EventId>) -> Problem {
    // Clients of older trigger APIs look for the first three words.
    let detail = "Duplicate event detected: its dedup_id was accepted within the last 24 hours";
    let problem = |detail| Problem::new(StatusCode::CONFLICT, "duplicate_event", detail);
    match original {
        Some(original) => problem(format!("{detail}: {original}")).with_field("event_id", original),
        None => problem(detail.to_owned()),
    }
}
