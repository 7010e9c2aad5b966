//! Webhook endpoints: the routes that manage them (here) and the default endpoint (`default`), who may use them
//! (`managers`), the validation (`input`), the change of an endpoint (`edit`), the shapes of JSON (`bodies`), errors
//! (`problems`), how webhooks authenticate and are signed beside our signature (`receiver_auth`, `compat_signature`,
//! `nested`, `credentials`, `credential_bodies`), the sealed secrets (`secrets`), and the rows (`store`, `pages`); how
//! many changes there may be (`changes`); filters (`filter`) and their dry run (`dry_run`); rotation (`rotation`),
//! enabling and disabling (`switching`), also by the system (`disabling`); tests of an endpoint (`trial`), and the
//! backfill of a new one (`backfill`); the cache of the dispatcher (`cache`, `matching`), and what it deletes
//! (`purge`). Nothing here needs Kafka.

mod backfill;
mod bodies;
pub(crate) mod cache;
mod changes;
pub(crate) mod compat_signature;
mod credential_bodies;
pub(crate) mod credentials;
mod default;
pub(crate) mod disabling;
mod dry_run;
mod edit;
pub(crate) mod event_types;
pub(crate) mod filter;
mod headers;
pub(crate) mod input;
pub(crate) mod managers;
pub(crate) mod matching;
mod nested;
pub(crate) mod notes;
mod pages;
mod problems;
pub(crate) mod purge;
pub(crate) mod receiver_auth;
mod rotation;
mod scale;
pub(crate) mod secrets;
pub(crate) mod store;
mod switching;
mod trial;

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRef, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use http_server::{FieldError, JsonBody, JsonObject, PathId, Problem, Routes};
use runtime::seal::SealingKey;
use schemas::ids::{EndpointId, OrgId};
use sqlx::postgres::PgPool;
use sqlx::{Postgres, Transaction};
use tenancy::audit::{Actor, Origin};
use tenancy::{Authenticator, Manager};
use time::OffsetDateTime;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::attempt::egress::EgressPolicy;
use crate::config::EndpointSettings;
use crate::retry::schedule::OpenLimits;
use bodies::{EndpointBody, EndpointList, EndpointPatchBody, NewEndpointBody};
pub use default::default_endpoint;
use edit::{apply, new_endpoint};
use input::EndpointPatch;
use managers::EndpointWriter;
use notes::note;
use problems::{failed, invalid, refused};

#[derive(Clone)]
struct EndpointsState {
    authenticator: Authenticator,
    pool: PgPool,
    sealing: SealingKey,
    policy: Arc<EgressPolicy>,
    max_changes_per_hour: u32,
    open_limits: OpenLimits,
}

impl EndpointsState {
    /// Begins the transaction of a change, and counts it.
    async fn begin_change(&self, org_id: OrgId) -> Result<Transaction<'static, Postgres>, Problem> {
        let mut transaction = runtime::postgres::begin(&self.pool).await.map_err(failed)?;
        changes::count(&mut transaction, org_id, self.max_changes_per_hour).await?;
        Ok(transaction)
    }
}

impl FromRef<EndpointsState> for Authenticator {
    fn from_ref(state: &EndpointsState) -> Self {
        state.authenticator.clone()
    }
}

/// The routes of webhook endpoints.
pub fn routes(authenticator: Authenticator, pool: PgPool, sealing: SealingKey, settings: EndpointSettings) -> Routes {
    let EndpointSettings { policy, max_changes_per_hour, open_limits } = settings;
    let policy = Arc::new(policy);
    let state = EndpointsState { authenticator, pool, sealing, policy, max_changes_per_hour, open_limits };
    described().with_state(state).into()
}

/// What the routes say of themselves.
pub fn openapi() -> OpenApi {
    described().into_openapi()
}

fn described() -> OpenApiRouter<EndpointsState> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(show, update, remove))
        .routes(routes!(switching::enable))
        .routes(routes!(switching::disable))
        .routes(routes!(rotation::rotate))
        .routes(routes!(trial::test))
        .routes(routes!(dry_run::test_filter))
        .routes(routes!(default::configure))
}

/// Create an endpoint
///
/// Events that match are delivered to it as signed webhooks. The response has its secret, for this once. With
/// `backfill_from`, earlier events are delivered too, each once: a replay starts, whose id is `replay_id`.
#[utoipa::path(
    post, path = "/endpoints", operation_id = "create_endpoint", tag = "Webhooks",
    request_body = NewEndpointBody,
    responses((status = 201, description = "The endpoint, with its secret.", body = EndpointBody,
        headers(("Location" = String, description = "Path of the endpoint.")))),
    security(("key" = ["manage"])),
    extensions(("x-error-codes" = json!(["invalid_endpoint", "too_many_endpoints", "too_many_replays"]))),
)]
async fn create(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<EndpointsState>,
    origin: Origin,
    JsonBody(mut body): JsonBody<JsonObject>,
) -> Result<Response, Problem> {
    let now = OffsetDateTime::now_utc();
    let backfill = backfill::take(&mut body, &state.sealing, caller.org_id);
    let patch = EndpointPatch::read_new(body, &state.policy.of(caller.org_id), now);
    let (patch, backfill) = backfill::both(patch, backfill).map_err(invalid)?;
    let Some(url) = patch.url.clone() else {
        return Err(invalid(vec![FieldError::new("url", "is required")]));
    };
    let (mut endpoint, secret) = new_endpoint(&state.sealing, caller.org_id, url);
    apply(&mut endpoint, patch, &state.sealing);
    edit::check(&endpoint, &state.sealing).map_err(invalid)?;
    let mut transaction = state.begin_change(caller.org_id).await?;
    let version = store::raise_version(&mut transaction).await.map_err(failed)?;
    let stored = store::create(&mut transaction, version, &endpoint).await.map_err(refused)?;
    let actor = Actor::Key(caller.key_id);
    note(&mut transaction, actor, Some(&origin), "endpoint.created", &stored).await.map_err(failed)?;
    let replay_id = match backfill {
        Some(from) => Some(backfill::start(&mut transaction, &caller, &origin, &stored, from).await?),
        None => None,
    };
    transaction.commit().await.map_err(failed)?;
    let location = HeaderValue::from_str(&format!("/v1/endpoints/{}", stored.id)).map_err(|_| Problem::internal())?;
    let body = EndpointBody::revealing(stored, &secret).with_replay(replay_id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(body)).into_response())
}

/// List the endpoints
#[utoipa::path(
    get, path = "/endpoints", operation_id = "list_endpoints", tag = "Webhooks",
    responses((status = 200, description = "The endpoints of the organization.", body = EndpointList)),
    security(("key" = ["manage"])),
)]
async fn list(Manager(caller): Manager, State(state): State<EndpointsState>) -> Result<Json<EndpointList>, Problem> {
    let endpoints = store::list(&state.pool, caller.org_id).await.map_err(failed)?;
    Ok(Json(EndpointList { endpoints: endpoints.into_iter().map(EndpointBody::new).collect() }))
}

/// Read an endpoint
#[utoipa::path(
    get, path = "/endpoints/{id}", operation_id = "get_endpoint", tag = "Webhooks",
    params(("id" = EndpointId, Path, description = "Id of the endpoint.")),
    responses((status = 200, description = "The endpoint.", body = EndpointBody)),
    security(("key" = ["manage"])),
)]
async fn show(
    Manager(caller): Manager,
    State(state): State<EndpointsState>,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<EndpointBody>, Problem> {
    let endpoint = store::get(&state.pool, caller.org_id, id).await.map_err(failed)?;
    endpoint.map(|endpoint| Json(EndpointBody::new(endpoint))).ok_or_else(Problem::not_found)
}

/// Change an endpoint
#[utoipa::path(
    patch, path = "/endpoints/{id}", operation_id = "change_endpoint", tag = "Webhooks",
    params(("id" = EndpointId, Path, description = "Id of the endpoint.")),
    request_body = EndpointPatchBody,
    responses((status = 200, description = "The changed endpoint.", body = EndpointBody)),
    security(("key" = ["manage"])),
    extensions(("x-error-codes" = json!(["invalid_endpoint"]))),
)]
async fn update(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<EndpointsState>,
    origin: Origin,
    PathId(id): PathId<EndpointId>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<Json<EndpointBody>, Problem> {
    let now = OffsetDateTime::now_utc();
    let patch = EndpointPatch::read(&body, &state.policy.of(caller.org_id), now).map_err(invalid)?;
    let mut transaction = state.begin_change(caller.org_id).await?;
    let version = store::raise_version(&mut transaction).await.map_err(failed)?;
    let change = |endpoint: &mut _| apply(endpoint, patch, &state.sealing);
    let stored = store::update(&mut transaction, version, caller.org_id, id, change)
        .await
        .map_err(failed)?
        .ok_or_else(Problem::not_found)?;
    // A refusal drops the transaction, and the change with it.
    edit::check(&stored, &state.sealing).map_err(invalid)?;
    let actor = Actor::Key(caller.key_id);
    note(&mut transaction, actor, Some(&origin), "endpoint.changed", &stored).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(Json(EndpointBody::new(stored)))
}

/// Delete an endpoint
///
/// Nothing more is delivered to it.
#[utoipa::path(
    delete, path = "/endpoints/{id}", operation_id = "delete_endpoint", tag = "Webhooks",
    params(("id" = EndpointId, Path, description = "Id of the endpoint.")),
    responses((status = 204, description = "It is deleted.")),
    security(("key" = ["manage"])),
)]
async fn remove(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<EndpointsState>,
    origin: Origin,
    PathId(id): PathId<EndpointId>,
) -> Result<StatusCode, Problem> {
    let mut transaction = state.begin_change(caller.org_id).await?;
    let version = store::raise_version(&mut transaction).await.map_err(failed)?;
    let deleted = store::delete(&mut transaction, version, caller.org_id, id)
        .await
        .map_err(failed)?
        .ok_or_else(Problem::not_found)?;
    let actor = Actor::Key(caller.key_id);
    note(&mut transaction, actor, Some(&origin), "endpoint.deleted", &deleted).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}
