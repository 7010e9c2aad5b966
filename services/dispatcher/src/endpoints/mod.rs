//! Webhook endpoints: the routes that manage them (here) and the default endpoint (`default`), who may use them
//! (`managers`), the validation (`input`), the change of an endpoint (`edit`), the responses (`answers`), the sealed
//! secrets (`secrets`), and the rows (`store`); the cache of the dispatcher (`cache`, `matching`). Nothing here needs
//! Kafka.

mod answers;
pub(crate) mod cache;
mod default;
mod edit;
pub(crate) mod input;
mod managers;
pub(crate) mod matching;
pub(crate) mod notes;
pub(crate) mod secrets;
pub(crate) mod store;

use std::sync::Arc;

use axum::extract::{FromRef, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderValue, StatusCode, header};
use http_server::{FieldError, JsonBody, JsonObject, PathId, Problem, Routes};
use runtime::seal::SealingKey;
use schemas::ids::EndpointId;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use tenancy::Authenticator;
use tenancy::audit::{Actor, Origin};

use crate::attempt::egress::EgressPolicy;
use answers::{failed, invalid, refused, to_json};
pub use default::default_endpoint;
use edit::{apply, new_endpoint};
use input::EndpointPatch;
use managers::{EndpointReader, EndpointWriter};
use notes::note;

#[derive(Clone)]
struct EndpointsState {
    authenticator: Authenticator,
    pool: PgPool,
    sealing: SealingKey,
    policy: Arc<EgressPolicy>,
}

impl FromRef<EndpointsState> for Authenticator {
    fn from_ref(state: &EndpointsState) -> Self {
        state.authenticator.clone()
    }
}

/// The routes of webhook endpoints. `policy` must be the dispatcher's.
pub fn routes(authenticator: Authenticator, pool: PgPool, sealing: SealingKey, policy: EgressPolicy) -> Routes {
    let router = Router::new()
        .route("/endpoints", post(create).get(list))
        .route("/endpoints/{id}", get(show).patch(update).delete(remove))
        .route("/webhook/config", post(default::configure))
        .with_state(EndpointsState { authenticator, pool, sealing, policy: Arc::new(policy) });
    router.into()
}

async fn create(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<EndpointsState>,
    origin: Origin,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<Response, Problem> {
    let patch = EndpointPatch::read_new(body, &state.policy).map_err(invalid)?;
    let Some(url) = patch.url.clone() else {
        return Err(invalid(vec![FieldError::new("url", "is required")]));
    };
    let (mut endpoint, secret) = new_endpoint(&state.sealing, caller.org_id, url);
    apply(&mut endpoint, patch, &state.sealing);
    let mut transaction = state.pool.begin().await.map_err(failed)?;
    let version = store::raise_version(&mut transaction).await.map_err(failed)?;
    let stored = store::create(&mut transaction, version, &endpoint).await.map_err(refused)?;
    let actor = Actor::Key(caller.key_id);
    note(&mut transaction, actor, Some(&origin), "endpoint.created", &stored).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    let location = HeaderValue::from_str(&format!("/v1/endpoints/{}", stored.id)).map_err(|_| Problem::internal())?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(to_json(&stored, Some(&secret)))).into_response())
}

async fn list(
    EndpointReader(caller): EndpointReader,
    State(state): State<EndpointsState>,
) -> Result<Json<Value>, Problem> {
    let endpoints = store::list(&state.pool, caller.org_id).await.map_err(failed)?;
    let endpoints: Vec<Value> = endpoints.iter().map(|endpoint| to_json(endpoint, None)).collect();
    Ok(Json(json!({ "endpoints": endpoints })))
}

async fn show(
    EndpointReader(caller): EndpointReader,
    State(state): State<EndpointsState>,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<Value>, Problem> {
    let endpoint = store::get(&state.pool, caller.org_id, id).await.map_err(failed)?;
    endpoint.map(|endpoint| Json(to_json(&endpoint, None))).ok_or_else(Problem::not_found)
}

async fn update(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<EndpointsState>,
    origin: Origin,
    PathId(id): PathId<EndpointId>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<Json<Value>, Problem> {
    let patch = EndpointPatch::read(&body, &state.policy).map_err(invalid)?;
    let mut transaction = state.pool.begin().await.map_err(failed)?;
    let version = store::raise_version(&mut transaction).await.map_err(failed)?;
    let change = |endpoint: &mut _| apply(endpoint, patch, &state.sealing);
    let stored = store::update(&mut transaction, version, caller.org_id, id, change)
        .await
        .map_err(failed)?
        .ok_or_else(Problem::not_found)?;
    let actor = Actor::Key(caller.key_id);
    note(&mut transaction, actor, Some(&origin), "endpoint.changed", &stored).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(Json(to_json(&stored, None)))
}

async fn remove(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<EndpointsState>,
    origin: Origin,
    PathId(id): PathId<EndpointId>,
) -> Result<StatusCode, Problem> {
    let mut transaction = state.pool.begin().await.map_err(failed)?;
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
