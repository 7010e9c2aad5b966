//! `POST /endpoints/{id}/retry`, and `/replays/{id}`: retries of failed deliveries in bulk.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use http_server::{JsonBody, PathId, Problem, QueryParams, Timestamp};
use schemas::ids::{EndpointId, ReplayId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tenancy::Caller;
use tenancy::audit::{self, Actor, Change, Origin};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::DeliveriesState;
use super::replay::{self, BulkRetryCount, StartedReplay, read_time, read_types};
use crate::endpoints::managers::EndpointWriter;
use crate::replays::{self, Only, Replay, Selection, Start};

/// Which deliveries to retry.
#[derive(Default, Deserialize, ToSchema)]
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

/// How far a replay is.
#[derive(Serialize, ToSchema)]
#[schema(as = Replay, example = json!({
    "id": "0192f0c1-2345-7abc-8def-0123456789ae",
    "endpoint_id": "0192f0c1-2345-7abc-8def-0123456789ad",
    "only": "missing",
    "status": "finished",
    "waits_for": null,
    "matched": 412,
    "scheduled": 409,
    "delivered": 401,
    "failed": 3,
    "progress": 0.988,
    "reached": "2026-11-21T11:59:58.720Z",
    "created_at": "2026-11-21T12:00:00.000Z",
    "ended_at": "2026-11-21T12:00:01.200Z"
}))]
pub(super) struct ReplayBody {
    id: ReplayId,
    endpoint_id: EndpointId,
    /// What it takes: `missing`, `all` or `failed`.
    only: &'static str,
    /// `running`, `finished` or `cancelled`. Finished: everything is scheduled; the deliveries show how they go.
    status: String,
    /// Why it does not go on at the moment: `log`, until it is known which events have a delivery; `open_deliveries`,
    /// until the organization has fewer of them. Null: it goes on, or has ended.
    waits_for: Option<&'static str>,
    /// Events, or deliveries, that it has taken so far.
    matched: i64,
    /// Deliveries that it has scheduled. The others wait for an attempt already, or their event is no longer kept.
    scheduled: i64,
    /// Scheduled deliveries that a receiver has accepted.
    delivered: i64,
    /// Scheduled deliveries whose last attempt failed. What is neither waits for an attempt, or was cancelled.
    failed: i64,
    /// From 0 to 1: which part of the scheduled deliveries was delivered or has failed; 1 if it has ended and scheduled
    /// none.
    progress: f64,
    /// When the last event that it has looked at was accepted, or the last delivery created. Null: none so far.
    reached: Option<Timestamp>,
    created_at: Timestamp,
    /// Null while it is running.
    ended_at: Option<Timestamp>,
}

impl From<Replay> for ReplayBody {
    fn from(replay: Replay) -> Self {
        Self {
            id: replay.id,
            endpoint_id: replay.selection.endpoint,
            only: replay.selection.only.as_str(),
            waits_for: replay.waits_for(),
            reached: replay.reached().map(Timestamp),
            progress: replay.progress(),
            status: replay.status,
            matched: replay.matched,
            scheduled: replay.scheduled,
            delivered: replay.delivered,
            failed: replay.failed,
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
        Ok(Selection {
            org_id: caller.org_id,
            endpoint,
            only: Only::Failed,
            from: read_time("from", self.from.as_deref())?.map(Start::at),
            before: Some(read_time("to", self.to.as_deref())?.unwrap_or_else(OffsetDateTime::now_utc)),
            event_types: read_types(self.event_types.as_deref())?,
        })
    }
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
    let body = body.map(|JsonBody(body)| body).unwrap_or_default();
    let selection = body.selection(&caller, id)?;
    replay::start(&state, &caller, &origin, selection, body.dry_run.unwrap_or(false)).await
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
            let mut transaction = runtime::postgres::begin(&state.pool).await?;
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
