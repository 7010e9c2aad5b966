//! What an accepted event is answered with, and a repeat of one.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use platform::http::{Dialect, Problem};
use schemas::ids::EventId;
use schemas::records::DedupKind;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// UTC with milliseconds: the log's clock has no finer ones.
const TIMESTAMP: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// What is told of an accepted event, the first time and at every repeat.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    pub(crate) event_id: EventId,
    pub(crate) event_type: String,
    /// Milliseconds since the Unix epoch; `None` when nobody could say.
    pub(crate) accepted_at_ms: Option<i64>,
    /// Sealed place on the log; `None` when it is not known (any more).
    pub(crate) position: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    event_id: EventId,
    id: EventId,
    status: &'static str,
    event_type: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: Option<String>,
    position: Option<&'a str>,
    message: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

impl Accepted {
    fn body(&self, message: &'static str, duplicate: bool) -> Json<Body<'_>> {
        Json(Body {
            event_id: self.event_id,
            id: self.event_id,
            status: "accepted",
            event_type: &self.event_type,
            kind: &self.event_type,
            timestamp: self.accepted_at_ms.and_then(rfc3339),
            position: self.position.as_deref(),
            message,
            duplicate,
        })
    }

    /// The answer to the first one.
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

    /// The answer to a repeat named by `kind`.
    pub(crate) fn into_repeat(self, kind: DedupKind, dialect: Dialect) -> Response {
        match kind {
            DedupKind::IdempotencyKey => {
                let mut response = self.into_response(dialect);
                response.headers_mut().insert(HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true"));
                response
            }
            DedupKind::DedupId => {
                let detail = format!("an event with this dedup_id was accepted within the last 24 hours: {}", self.event_id);
                Problem::new(StatusCode::CONFLICT, "duplicate_event", detail).with_field("event_id", self.event_id).into_response()
            }
            DedupKind::Content => (StatusCode::OK, self.body("this content was accepted a moment ago", true)).into_response(),
        }
    }
}

fn rfc3339(milliseconds: i64) -> Option<String> {
    let nanoseconds = i128::from(milliseconds) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()?.format(TIMESTAMP).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_utc_with_milliseconds() {
        assert_eq!(rfc3339(1_700_000_000_000).as_deref(), Some("2023-11-14T22:13:20.000Z"));
        assert_eq!(rfc3339(1_700_000_000_007).as_deref(), Some("2023-11-14T22:13:20.007Z"));
        assert_eq!(rfc3339(i64::MAX), None);
    }
}
