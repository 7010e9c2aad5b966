//! `POST /endpoints/{id}/replay`: sends events to an endpoint again, or those that it never got.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http_server::{JsonBody, PathId, Problem, QueryParams, Timestamp};
use schemas::ids::{EndpointId, ReplayId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::postgres::PgConnection;
use tenancy::audit::{self, Actor, Change, Origin};
use tenancy::{Caller, ReadError};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::DeliveriesState;
use super::request::{MAX_TYPES, check_type};
use crate::endpoints::managers::EndpointWriter;
use crate::endpoints::store;
use crate::replays::{self, Count, MAX_RUNNING, Only, Selection, Start};

/// What to replay.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EndpointReplay, example = json!({
    "only": "missing",
    "from": "2026-11-21T09:00:00Z",
    "to": "2026-11-21T12:00:00Z",
    "event_types": ["order.created"],
    "dry_run": true
}))]
pub(super) struct EndpointReplay {
    /// `missing`: events without a delivery to the endpoint, in whatever state. `all`: all events; what waits for an
    /// attempt is left as it is. `failed`: deliveries that failed, as `POST /v1/endpoints/{id}/retry`. Default:
    /// missing.
    #[schema(pattern = "^(missing|all|failed)$")]
    only: Option<String>,
    /// Events that were accepted at this time or later; with `failed`, deliveries that were created then. Default: from
    /// the oldest on.
    #[schema(format = DateTime)]
    from: Option<String>,
    /// The event with this `position`, and those after it. Not with `from`, and not with `failed`.
    from_position: Option<String>,
    /// Events that were accepted before this time; with `failed`, deliveries that were created before it. Default:
    /// until now.
    #[schema(format = DateTime)]
    to: Option<String>,
    /// Only events of these types. Default: all that the endpoint subscribes to.
    #[schema(max_items = 20)]
    event_types: Option<Vec<String>>,
    /// Only count them.
    dry_run: Option<bool>,
}

/// How many deliveries or events a replay would look at.
#[derive(Serialize, ToSchema)]
#[schema(as = BulkRetryCount, example = json!({"matched": 412, "matched_is_lower_bound": false}))]
pub(super) struct BulkRetryCount {
    matched: usize,
    /// There may be more: a count ends at 10,000, or after 2 s.
    matched_is_lower_bound: bool,
}

/// A replay that was started.
#[derive(Serialize, ToSchema)]
#[schema(as = StartedReplay, example = json!({"replay_id": "0192f0c1-2345-7abc-8def-0123456789ae"}))]
pub(super) struct StartedReplay {
    replay_id: ReplayId,
}

impl EndpointReplay {
    fn selection(&self, state: &DeliveriesState, caller: &Caller, endpoint: EndpointId) -> Result<Selection, Problem> {
        let only = match self.only.as_deref().map(Only::parse) {
            None => Only::Missing,
            Some(Some(only)) => only,
            Some(None) => return Err(QueryParams::invalid("only", "must be missing, all or failed")),
        };
        let from = read_time("from", self.from.as_deref())?.map(Start::at);
        let start = match &self.from_position {
            Some(_) if from.is_some() => return Err(QueryParams::invalid("from_position", "is given beside from")),
            Some(_) if !only.is_of_events() => {
                return Err(QueryParams::invalid("from_position", "is for events, not for deliveries that failed"));
            }
            Some(token) => Some(Start::of_token(&state.sealing, caller.org_id, token).ok_or_else(|| {
                QueryParams::invalid("from_position", "is not a position that this organization was given")
            })?),
            None => from,
        };
        let before = read_time("to", self.to.as_deref())?;
        if start.zip(before).is_some_and(|(start, before)| before <= start.at) {
            return Err(QueryParams::invalid("to", "must be after the start"));
        }
        Ok(Selection {
            org_id: caller.org_id,
            endpoint,
            only,
            from: start,
            // What was missed has no delivery, however late it was accepted.
            before: before.or_else(|| (only != Only::Missing).then(now)),
            event_types: read_types(self.event_types.as_deref())?,
        })
    }
}

/// Now, in milliseconds, as the log notes when it accepts: an event that is accepted later is not before it.
fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_millisecond(now.millisecond()).unwrap_or(now)
}

/// Reads a time of a body.
pub(super) fn read_time(name: &str, text: Option<&str>) -> Result<Option<OffsetDateTime>, Problem> {
    let parse = |text: &str| text.parse().map(|Timestamp(time)| time);
    text.map(parse).transpose().map_err(|reason| QueryParams::invalid(name, reason.to_string()))
}

/// Reads the event types of a body. `None`: all.
pub(super) fn read_types(types: Option<&[String]>) -> Result<Option<Vec<String>>, Problem> {
    let types = types.unwrap_or_default();
    if types.len() > MAX_TYPES {
        return Err(QueryParams::invalid("event_types", format!("must name at most {MAX_TYPES} types")));
    }
    types.iter().try_for_each(|name| check_type("event_types", name))?;
    Ok((!types.is_empty()).then(|| types.to_vec()))
}

/// Replay events to an endpoint
///
/// Starts a replay: it sends the events that the endpoint subscribes to and that the inbox keeps, acknowledged ones
/// too, at most 500 a second, each with the `webhook-id` that it always has. It takes events that were accepted until
/// now; the later ones are delivered anyway. An event that was delivered, failed or cancelled gets a new round of
/// attempts, as from `POST /v1/deliveries/{id}/retry`. A replay waits until it is known which events have a delivery,
/// and while the organization has too many open deliveries. An organization can have three running replays, an endpoint
/// one.
#[utoipa::path(
    post, path = "/endpoints/{id}/replay", operation_id = "replay_endpoint", tag = "Webhooks",
    params(("id" = EndpointId, Path, description = "Id of the endpoint.")),
    request_body = Option<EndpointReplay>,
    responses(
        (status = 200, description = "Of a dry run: how many it would look at.", body = BulkRetryCount),
        (status = 202, description = "The replay has started.", body = StartedReplay)),
    security(("key" = ["manage"])),
    extensions(("x-error-codes" = json!(["too_many_replays"]))),
)]
pub(super) async fn replay(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<DeliveriesState>,
    origin: Origin,
    PathId(id): PathId<EndpointId>,
    body: Option<JsonBody<EndpointReplay>>,
) -> Result<Response, Problem> {
    let body = body.map(|JsonBody(body)| body).unwrap_or_default();
    let selection = body.selection(&state, &caller, id)?;
    start(&state, &caller, &origin, selection, body.dry_run.unwrap_or(false)).await
}

/// Starts a replay, or counts what it would look at.
pub(super) async fn start(
    state: &DeliveriesState,
    caller: &Caller,
    origin: &Origin,
    selection: Selection,
    dry_run: bool,
) -> Result<Response, Problem> {
    caller
        .shares()
        .read(async {
            let mut transaction = runtime::postgres::begin(&state.pool).await?;
            if !store::exists(&mut transaction, caller.org_id, selection.endpoint).await?
                || store::is_erased(&mut transaction, caller.org_id).await?
            {
                return Err(Problem::not_found().into());
            }
            if dry_run {
                let Count { matched, is_lower_bound } = replays::count(&mut transaction, &selection).await?;
                let count = BulkRetryCount { matched, matched_is_lower_bound: is_lower_bound };
                return Ok(Json(count).into_response());
            }
            let Some(replay_id) = replays::create(&mut transaction, &selection).await? else {
                return Err(too_many().into());
            };
            note_start(&mut transaction, caller, origin, replay_id, &selection).await?;
            transaction.commit().await?;
            Ok::<_, ReadError>((StatusCode::ACCEPTED, Json(StartedReplay { replay_id })).into_response())
        })
        .await
        .map_err(Problem::from)
}

/// Appends the start of a replay to the audit log, as the last statement of its transaction.
pub(crate) async fn note_start(
    connection: &mut PgConnection,
    caller: &Caller,
    origin: &Origin,
    replay_id: ReplayId,
    selection: &Selection,
) -> Result<(), sqlx::Error> {
    let change = Change { org_id: caller.org_id, action: "replay.started", target: replay_id.as_uuid() };
    let detail = json!({
        "endpoint_id": selection.endpoint,
        "only": selection.only.as_str(),
        "from": selection.from.map(|start| Timestamp(start.at)),
        "to": selection.before.map(Timestamp),
        "event_types": selection.event_types,
    });
    audit::append(connection, Actor::Key(caller.key_id), Some(origin), change, &detail).await
}

/// 409: there are as many replays as there may be.
pub(crate) fn too_many() -> Problem {
    let detail = format!("a replay of the endpoint is running, or {MAX_RUNNING} of the organization; cancel one");
    Problem::new(StatusCode::CONFLICT, "too_many_replays", detail)
}
