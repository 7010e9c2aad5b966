//! `GET /events/{id}`: one event, acknowledged or not. An id that turned out to be a duplicate answers with the
//! original.

use axum::Json;
use axum::extract::State;
use http_server::{PathId, Problem};
use schemas::ids::{EventId, OrgId};
use sqlx::postgres::PgPool;
use tenancy::{Caller, Consumer};

use super::item::{InboxItem, InboxRow, event_columns};
use crate::position_token;
use crate::state::InboxState;

/// Read one event
///
/// Acknowledged or not. An id that was a duplicate answers with the original, and `duplicate_of` names it. Right after
/// it was accepted, the answer waits until the event can be read, for one second at most.
#[utoipa::path(
    get, path = "/events/{id}", operation_id = "get_event", tag = "Consuming",
    params(("id" = EventId, Path, description = "Id of the event.")),
    responses((status = 200, description = "The event.", body = InboxItem)),
    security(("key" = ["consume"])),
)]
pub(super) async fn event(
    Consumer(caller): Consumer,
    State(state): State<InboxState>,
    PathId(id): PathId<EventId>,
) -> Result<Json<InboxItem>, Problem> {
    let row = find(&state, &caller, id).await?;
    let mut tokens = position_token::tokens(&state.inbox.sealing, caller.org_id);
    Ok(Json(InboxItem::new(row, &mut tokens).asked_for_as(id)))
}

/// The event that `id` names for this caller. One that this instance accepted a moment ago is waited for.
pub(super) async fn find(state: &InboxState, caller: &Caller, id: EventId) -> Result<InboxRow, Problem> {
    let inbox = &state.inbox;
    let mut row = caller.shares().read(read(&inbox.pool, caller.org_id, id)).await?;
    if row.is_none() && inbox.read_your_writes.catch_up(caller.org_id, &[]).await {
        row = caller.shares().read(read(&inbox.pool, caller.org_id, id)).await?;
    }
    row.filter(|row| caller.allows_event_type(&row.event_type)).ok_or_else(Problem::not_found)
}

async fn read(pool: &PgPool, organization: OrgId, id: EventId) -> Result<Option<InboxRow>, sqlx::Error> {
    sqlx::query_as(concat!(
        "SELECT ",
        event_columns!(),
        " FROM view.events WHERE org_id = $1
          AND event_id = COALESCE((SELECT canonical_id FROM event_ids WHERE org_id = $1 AND event_id = $2), $2)"
    ))
    .bind(organization.as_uuid())
    .bind(id.as_uuid())
    .fetch_optional(pool)
    .await
}
