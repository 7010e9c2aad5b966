//! `POST /endpoints/{id}/retry`, and `/replays/{id}`: retries of failed deliveries in bulk.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http_server::{JsonBody, PathId, Problem, QueryParams, Timestamp};
use schemas::ids::{EndpointId, ReplayId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tenancy::audit::{self, Actor, Change, Origin};
use tenancy::{Caller, ReadError};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::DeliveriesState;
use super::request::{MAX_TYPES, check_type};
use crate::endpoints::managers::EndpointWriter;
use crate::endpoints::store;
use crate::replays::{self, MAX_COUNTED, MAX_RUNNING, Replay, Selection};

/// Which deliveries to retry.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BulkRetry, example = json!({
    "only": "failed",
    "from": "2026-11-21T09:00:00Z",
    "to": "2026-11-21T12:00:00Z",
    "event_types": ["order.created"],
    "dry_run": true
}))]
pub(super) struct BulkRetry {
    /// `failed`: deliveries that failed for good. Default: failed.
    #[schema(pattern = "^failed$")]
    only: Option<String>,
    /// Created at this time or later. Default: from the oldest on.
    #[schema(format = DateTime)]
    from: Option<String>,
    /// Created before this time. Default: now.
    #[schema(format = DateTime)]
    to: Option<String>,
    /// Only events of these types. Default: all.
    #[schema(max_items = 20)]
    event_types: Option<Vec<String>>,
    /// Only count them.
    dry_run: Option<bool>,
}

/// How many deliveries a bulk retry would look at.
#[derive(Serialize, ToSchema)]
#[schema(as = BulkRetryCount, example = json!({"matched": 412, "matched_is_lower_bound": false}))]
struct BulkRetryCount {
    matched: usize,
    /// There may be more.
    matched_is_lower_bound: bool,
}

/// A replay that was started.
#[derive(Serialize, ToSchema)]
#[schema(as = StartedReplay, example = json!({"replay_id": "0192f0c1-2345-7abc-8def-0123456789ae"}))]
struct StartedReplay {
    replay_id: ReplayId,
}

/// How far a replay is.
#[derive(Serialize, ToSchema)]
#[schema(as = Replay, example = json!({
    "id": "0192f0c1-2345-7abc-8def-0123456789ae",
    "endpoint_id": "0192f0c1-2345-7abc-8def-0123456789ad",
    "status": "finished",
    "matched": 412,
    "scheduled": 409,
    "created_at": "2026-11-21T12:00:00.000Z",
    "ended_at": "2026-11-21T12:00:01.200Z"
}))]
pub(super) struct ReplayBody {
    id: ReplayId,
    endpoint_id: EndpointId,
    /// `running`, `finished` or `cancelled`. Finished: everything is scheduled; the deliveries show how they go.
    status: String,
    /// Deliveries that it has looked at so far.
    matched: i64,
    /// Deliveries that it has scheduled. The others were retried already, or their event is no longer kept.
    scheduled: i64,
    created_at: Timestamp,
    /// Null while it is running.
    ended_at: Option<Timestamp>,
}

impl From<Replay> for ReplayBody {
    fn from(replay: Replay) -> Self {
        Self {
            id: replay.id,
            endpoint_id: replay.selection.endpoint,
            status: replay.status,
            matched: replay.matched,
            scheduled: replay.scheduled,
            created_at: Timestamp(replay.created_at),
            ended_at: replay.ended_at.map(Timestamp),
        }
    }
}

impl BulkRetry {
    fn selection(&self, caller: &Caller, endpoint: EndpointId) -> Result<Selection, Problem> {
        if self.only.as_ref().is_some_and(|only| only != "failed") {
            return Err(QueryParams::invalid("only", "must be failed"));
        }
        let types = self.event_types.clone().unwrap_or_default();
        if types.len() > MAX_TYPES {
            return Err(QueryParams::invalid("event_types", format!("must name at most {MAX_TYPES} types")));
        }
        types.iter().try_for_each(|name| check_type("event_types", name))?;
        Ok(Selection {
            org_id: caller.org_id,
            endpoint,
            from: time("from", self.from.as_deref())?,
            before: time("to", self.to.as_deref())?.unwrap_or_else(OffsetDateTime::now_utc),
            event_types: (!types.is_empty()).then_some(types),
        })
    }
}

fn time(name: &str, text: Option<&str>) -> Result<Option<OffsetDateTime>, Problem> {
    let parse = |text: &str| text.parse().map(|Timestamp(time)| time);
    text.map(parse).transpose().map_err(|reason| QueryParams::invalid(name, reason.to_string()))
}

/// Retry failed deliveries
///
/// Starts a replay: it retries the failed deliveries of an endpoint, the oldest first, at most 500 a second, each as
/// `POST /v1/deliveries/{id}/retry` does. It waits while the organization has too many open deliveries. An organization
/// can have three running replays, an endpoint one.
#[utoipa::path(
    post, path = "/endpoints/{id}/retry", operation_id = "retry_endpoint", tag = "Webhooks",
    params(("id" = EndpointId, Path, description = "Id of the endpoint.")),
    request_body = Option<BulkRetry>,
    responses(
        (status = 200, description = "Of a dry run: how many it would retry.", body = BulkRetryCount),
        (status = 202, description = "The replay has started.", body = StartedReplay)),
    security(("key" = ["manage"])),
    extensions(("x-error-codes" = json!(["too_many_replays"]))),
)]
pub(super) async fn start(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<DeliveriesState>,
    origin: Origin,
    PathId(id): PathId<EndpointId>,
    body: Option<JsonBody<BulkRetry>>,
) -> Result<Response, Problem> {
    let (selection, dry_run) = match &body {
        Some(JsonBody(body)) => (body.selection(&caller, id)?, body.dry_run.unwrap_or(false)),
        None => {
            let now = OffsetDateTime::now_utc();
            (Selection { org_id: caller.org_id, endpoint: id, from: None, before: now, event_types: None }, false)
        }
    };
    caller
        .shares()
        .read(async {
            let mut transaction = state.pool.begin().await?;
            if !store::exists(&mut transaction, caller.org_id, id).await?
                || store::is_erased(&mut transaction, caller.org_id).await?
            {
                return Err(Problem::not_found().into());
            }
            if dry_run {
                let matched = replays::count(&mut transaction, &selection).await?;
                let matched_is_lower_bound = matched as u64 >= MAX_COUNTED.unsigned_abs();
                return Ok(Json(BulkRetryCount { matched, matched_is_lower_bound }).into_response());
            }
            let Some(replay_id) = replays::create(&mut transaction, &selection).await? else {
                return Err(too_many().into());
            };
            let change = Change { org_id: caller.org_id, action: "replay.started", target: replay_id.as_uuid() };
            let detail = json!({
                "endpoint_id": id,
                "only": "failed",
                "from": selection.from.map(Timestamp),
                "to": Timestamp(selection.before),
                "event_types": selection.event_types,
            });
            audit::append(&mut transaction, Actor::Key(caller.key_id), Some(&origin), change, &detail).await?;
            transaction.commit().await?;
            Ok::<_, ReadError>((StatusCode::ACCEPTED, Json(StartedReplay { replay_id })).into_response())
        })
        .await
        .map_err(Problem::from)
}

fn too_many() -> Problem {
    let detail = format!("a replay of the endpoint is running, or {MAX_RUNNING} of the organization; cancel one");
    Problem::new(StatusCode::CONFLICT, "too_many_replays", detail)
}

/// Read a replay
#[utoipa::path(
    get, path = "/replays/{id}", operation_id = "get_replay", tag = "Webhooks",
    params(("id" = ReplayId, Path, description = "Id of the replay.")),
    responses((status = 200, description = "The replay.", body = ReplayBody)),
    security(("key" = ["manage"])),
)]
pub(super) async fn show(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<DeliveriesState>,
    PathId(id): PathId<ReplayId>,
) -> Result<Json<ReplayBody>, Problem> {
    let found = caller.shares().read(replays::get(&state.pool, caller.org_id, id)).await?;
    found.map(|replay| Json(replay.into())).ok_or_else(Problem::not_found)
}

/// Cancel a replay
///
/// It schedules nothing more. What it has scheduled is sent.
#[utoipa::path(
    delete, path = "/replays/{id}", operation_id = "cancel_replay", tag = "Webhooks",
    params(("id" = ReplayId, Path, description = "Id of the replay.")),
    responses((status = 204, description = "It is cancelled, or had ended.")),
    security(("key" = ["manage"])),
)]
pub(super) async fn cancel(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<DeliveriesState>,
    origin: Origin,
    PathId(id): PathId<ReplayId>,
) -> Result<StatusCode, Problem> {
    let is_known = caller
        .shares()
        .read::<_, sqlx::Error>(async {
            let mut transaction = state.pool.begin().await?;
            if !replays::cancel(&mut transaction, caller.org_id, id).await? {
                return Ok(false);
            }
            let change = Change { org_id: caller.org_id, action: "replay.cancelled", target: id.as_uuid() };
            audit::append(&mut transaction, Actor::Key(caller.key_id), Some(&origin), change, &json!({})).await?;
            transaction.commit().await?;
            Ok(true)
        })
        .await?;
    is_known.then_some(StatusCode::NO_CONTENT).ok_or_else(Problem::not_found)
}
