//! `GET /endpoints/{id}/deliveries` and `GET /events/{id}/deliveries`: one page, newest first.

use axum::Json;
use axum::extract::State;
use http_server::{PathId, Problem, QueryParams, Timestamp};
use schemas::ids::{EndpointId, EventId, OrgId};
use tenancy::{Caller, Manager};

use super::bodies::{DeliveryItem, PageBody};
use super::request::{DeliveryState, ListRequest};
use super::{DeliveriesState, rows};
use crate::endpoints::store;

/// The query of both lists, for the document: [`ListRequest`] reads it.
#[expect(dead_code, reason = "only its description is used")]
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Deliveries on a page. Default 50.
    #[param(minimum = 1, maximum = 100, example = 50)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// One of these states.
    #[param(max_items = 5, example = json!(["failed"]))]
    status: Option<Vec<DeliveryState>>,
    /// One of these types.
    #[param(max_items = 20, example = json!(["order.created"]))]
    event_type: Option<Vec<String>>,
    /// Created at this time or later.
    #[param(example = "2026-11-21T09:00:00Z")]
    from: Option<Timestamp>,
    /// Created before this time.
    #[param(example = "2026-11-22T09:00:00Z")]
    to: Option<Timestamp>,
}

/// List the deliveries of an endpoint
///
/// Newest first. A delivery that waits for its first attempt is listed by the time at which its event was accepted.
#[utoipa::path(
    get, path = "/endpoints/{id}/deliveries", operation_id = "list_endpoint_deliveries", tag = "Webhooks",
    params(
        ("id" = EndpointId, Path, description = "Id of the endpoint."),
        ListParams,
    ),
    responses((status = 200, description = "A page.", body = PageBody)),
    security(("key" = ["manage"])),
)]
pub(super) async fn of_endpoint(
    Manager(caller): Manager,
    State(state): State<DeliveriesState>,
    PathId(id): PathId<EndpointId>,
    params: QueryParams,
) -> Result<Json<PageBody>, Problem> {
    let request = parse(&params, &caller, &state)?;
    let found = caller
        .shares()
        .read::<_, sqlx::Error>(async {
            let exists = store::get(&state.pool, caller.org_id, id).await?.is_some();
            if exists { rows::of_endpoint(&state.pool, caller.org_id, id, &request).await.map(Some) } else { Ok(None) }
        })
        .await?;
    found.map(|found| Json(page(found, &request, &state, caller.org_id))).ok_or_else(Problem::not_found)
}

/// List the deliveries of an event
///
/// Newest first. The id of a duplicate lists the deliveries of its original.
#[utoipa::path(
    get, path = "/events/{id}/deliveries", operation_id = "list_event_deliveries", tag = "Webhooks",
    params(
        ("id" = EventId, Path, description = "Id of the event."),
        ListParams,
    ),
    responses((status = 200, description = "A page.", body = PageBody)),
    security(("key" = ["manage"])),
)]
pub(super) async fn of_event(
    Manager(caller): Manager,
    State(state): State<DeliveriesState>,
    PathId(id): PathId<EventId>,
    params: QueryParams,
) -> Result<Json<PageBody>, Problem> {
    let request = parse(&params, &caller, &state)?;
    let (event_type, found) = caller
        .shares()
        .read::<_, sqlx::Error>(async {
            let id = rows::original_of(&state.pool, caller.org_id, id).await?;
            let event = rows::event(&state.pool, caller.org_id, id).await?;
            let found = rows::of_event(&state.pool, caller.org_id, id).await?;
            // The view may not have the event yet.
            let event_type = event.map(|event| event.event_type);
            Ok((event_type.or_else(|| found.first().map(|item| item.event_type.clone())), found))
        })
        .await?;
    if !event_type.is_some_and(|name| caller.allows_event_type(&name)) {
        return Err(Problem::not_found());
    }
    let mut found: Vec<DeliveryItem> = found.into_iter().filter(|item| request.matches(item)).collect();
    found.truncate(request.limit + 1);
    Ok(Json(page(found, &request, &state, caller.org_id)))
}

fn parse(params: &QueryParams, caller: &Caller, state: &DeliveriesState) -> Result<ListRequest, Problem> {
    ListRequest::parse(params, caller.event_types.as_deref(), (&state.sealing, caller.org_id))
}

/// `found` has one delivery more than the page if there are more.
fn page(mut found: Vec<DeliveryItem>, request: &ListRequest, state: &DeliveriesState, organization: OrgId) -> PageBody {
    let has_more = found.len() > request.limit;
    found.truncate(request.limit);
    let last = found.last().filter(|_| has_more);
    let next_cursor = last.map(|item| item.sort_key().seal(&state.sealing, organization));
    PageBody { deliveries: found, next_cursor, has_more }
}
