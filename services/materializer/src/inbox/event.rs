//! `GET /events/{id}`: one event, acknowledged or not. An id that turned out to be a duplicate answers with the original.

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use http::request::Parts;
use platform::http::Problem;
use schemas::ids::{EventId, OrgId};
use sqlx::postgres::PgPool;
use tenancy::{Caller, Right};

use super::item::{EventRow, Item, event_columns};
use super::state::InboxState;

/// The id in a path. One that is none answers as an unknown one does: 404.
pub(crate) struct EventPath(pub(crate) EventId);

impl<S: Send + Sync> FromRequestParts<S> for EventPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(id) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| Problem::not_found())?;
        id.parse().map(Self).map_err(|_| Problem::not_found())
    }
}

pub(super) async fn event(State(state): State<InboxState>, caller: Caller, EventPath(id): EventPath) -> Result<Json<Item>, Problem> {
    let row = find(&state, &caller, id).await?;
    Ok(Json(Item::new(row, &state.inbox.sealing, caller.org_id).asked_for_as(id)))
}

/// The event that `id` names for this caller. One that this instance accepted a moment ago is waited for.
pub(super) async fn find(state: &InboxState, caller: &Caller, id: EventId) -> Result<EventRow, Problem> {
    caller.require(Right::Consume)?;
    let inbox = &state.inbox;
    let mut row = inbox.within_budget(read(&inbox.pool, caller.org_id, id)).await?;
    if row.is_none() && inbox.freshness.catch_up(caller.org_id, &[]).await {
        row = inbox.within_budget(read(&inbox.pool, caller.org_id, id)).await?;
    }
    row.filter(|row| caller.may_see(&row.event_type)).ok_or_else(Problem::not_found)
}

async fn read(pool: &PgPool, organization: OrgId, id: EventId) -> Result<Option<EventRow>, sqlx::Error> {
    sqlx::query_as(concat!(
        "SELECT ",
        event_columns!(),
        " FROM view.events WHERE org_id = $1
          AND event_id = COALESCE((SELECT original_id FROM verdicts WHERE org_id = $1 AND event_id = $2), $2)"
    ))
    .bind(organization.as_uuid())
    .bind(id.as_uuid())
    .fetch_optional(pool)
    .await
}
