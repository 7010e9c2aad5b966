//! Acknowledges one event: `DELETE` answers without a body, `POST` with one. A repeated request gets the same answer.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http_server::{PathId, Problem, RequestContext, Timestamp};
use schemas::ids::EventId;
use serde::Serialize;
use tenancy::Caller;

use super::acknowledge::{AcknowledgedEvent, acknowledge};
use crate::state::InboxState;

#[derive(Serialize)]
struct AckResponse {
    id: EventId,
    event_id: EventId,
    status: &'static str,
    acknowledged_at: Option<Timestamp>,
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

/// 204; 202 when the view does not show it yet; 404.
pub(crate) async fn delete(
    State(state): State<InboxState>,
    caller: Caller,
    context: RequestContext,
    PathId(id): PathId<EventId>,
) -> Result<Response, Problem> {
    let (event, is_shown) = acknowledge_one(&state, &caller, &context, id).await?;
    if is_shown {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok((StatusCode::ACCEPTED, Json(AckResponse::from(event))).into_response())
}

/// 200; 202 when the view does not show it yet; 404.
pub(super) async fn ack(
    State(state): State<InboxState>,
    caller: Caller,
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
