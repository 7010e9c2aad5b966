//! Acknowledges one event: `DELETE` answers without a body, `POST` with one. A repeated request gets the same answer.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http_server::{PathId, Problem, RequestContext, Timestamp};
use schemas::ids::EventId;
use serde::Serialize;
use tenancy::{Caller, Consumer};
use utoipa::ToSchema;

use super::acknowledge::{AcknowledgedEvent, acknowledge};
use crate::state::InboxState;

/// An acknowledged event.
#[derive(Serialize, ToSchema)]
#[schema(as = Acknowledged, example = json!({
    "id": "0192f0c1-2345-7abc-8def-0123456789ab",
    "event_id": "0192f0c1-2345-7abc-8def-0123456789ab",
    "status": "acknowledged",
    "acknowledged_at": "2026-11-21T09:00:03.250Z",
    "success": true
}))]
struct AckResponse {
    id: EventId,
    event_id: EventId,
    /// Always `acknowledged`.
    status: &'static str,
    /// When it was first acknowledged; null if that is not known yet.
    acknowledged_at: Option<Timestamp>,
    /// Always true.
    success: bool,
}

impl From<AcknowledgedEvent> for AckResponse {
    fn from(event: AcknowledgedEvent) -> Self {
        Self {
            id: event.event_id,
            event_id: event.event_id,
            status: "acknowledged",
            acknowledged_at: event.at,
            success: true,
        }
    }
}

/// Acknowledge an event
///
/// The inbox does not list it any more. Repeated, it gets the same answer.
#[utoipa::path(
    delete, path = "/events/{id}", operation_id = "delete_event", tag = "Consuming",
    params(("id" = EventId, Path, description = "Id of the event.")),
    responses(
        (status = 204, description = "It is acknowledged."),
        (status = 202, description = "It is acknowledged; the inbox may still list it for a moment.",
            body = AckResponse),
    ),
    security(("key" = ["consume"])),
)]
pub(crate) async fn delete(
    Consumer(caller): Consumer,
    State(state): State<InboxState>,
    context: RequestContext,
    PathId(id): PathId<EventId>,
) -> Result<Response, Problem> {
    let (event, is_shown) = acknowledge_one(&state, &caller, &context, id).await?;
    if is_shown {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok((StatusCode::ACCEPTED, Json(AckResponse::from(event))).into_response())
}

/// Acknowledge an event
///
/// The inbox does not list it any more. Repeated, it gets the same answer.
#[utoipa::path(
    post, path = "/events/{id}/ack", operation_id = "acknowledge_event", tag = "Consuming",
    params(("id" = EventId, Path, description = "Id of the event.")),
    responses(
        (status = 200, description = "It is acknowledged.", body = AckResponse),
        (status = 202, description = "It is acknowledged; the inbox may still list it for a moment.",
            body = AckResponse),
    ),
    security(("key" = ["consume"])),
)]
pub(super) async fn ack(
    Consumer(caller): Consumer,
    State(state): State<InboxState>,
    context: RequestContext,
    PathId(id): PathId<EventId>,
) -> Result<Response, Problem> {
    let (event, is_shown) = acknowledge_one(&state, &caller, &context, id).await?;
    let status = if is_shown { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(AckResponse::from(event))).into_response())
}

async fn acknowledge_one(
    state: &InboxState,
    caller: &Caller,
    context: &RequestContext,
    id: EventId,
) -> Result<(AcknowledgedEvent, bool), Problem> {
    let outcome = acknowledge(state, caller, context, &[id]).await?;
    let event = outcome.acknowledged.get(&id).copied().ok_or_else(Problem::not_found)?;
    Ok((event, outcome.is_shown))
}
