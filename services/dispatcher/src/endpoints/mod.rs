//! Webhook endpoints: the routes that manage them (here), the validation (`input`), the sealed secrets (`secrets`), and
//! the rows (`store`); the cache of the dispatcher (`cache`, `matching`). Nothing here needs Kafka.

pub(crate) mod cache;
pub(crate) mod input;
pub(crate) mod matching;
pub(crate) mod secrets;
pub(crate) mod store;

use std::sync::Arc;

use axum::extract::{FromRef, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderValue, StatusCode, header};
use http_server::{FieldError, JsonBody, JsonObject, PathId, Problem, Routes, Timestamp};
use runtime::postgres::{SqlEffect, effect};
use runtime::seal::SealingKey;
use schemas::ids::{EndpointId, OrgId};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use tenancy::{Authenticator, Caller, Right};
use time::OffsetDateTime;
use tracing::{error, warn};

use crate::attempt::egress::EgressPolicy;
use crate::attempt::sign::Secret;
use crate::delivery::signed;
use crate::retry::policy::DEFAULT_DELAYS_SECONDS;
use input::{DEFAULT_TIMEOUT_SECONDS, EndpointPatch};
use store::{CreateError, StoredEndpoint};

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
        .route("/webhook/config", post(configure))
        .with_state(EndpointsState { authenticator, pool, sealing, policy: Arc::new(policy) });
    router.into()
}

async fn create(
    State(state): State<EndpointsState>,
    caller: Caller,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<Response, Problem> {
    may_write(&caller)?;
    let patch = EndpointPatch::read_new(body, &state.policy).map_err(invalid)?;
    let Some(url) = patch.url.clone() else {
        return Err(invalid(vec![FieldError::new("url", "is required")]));
    };
    let (mut endpoint, secret) = new_endpoint(&state.sealing, caller.org_id, url);
    apply(&mut endpoint, patch, &state.sealing);
    let stored = store::create(&state.pool, &endpoint).await.map_err(refused)?;
    let location = HeaderValue::from_str(&format!("/v1/endpoints/{}", stored.id)).map_err(|_| Problem::internal())?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(to_json(&stored, Some(&secret)))).into_response())
}

async fn list(State(state): State<EndpointsState>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.require(Right::Manage)?;
    let endpoints = store::list(&state.pool, caller.org_id).await.map_err(failed)?;
    let endpoints: Vec<Value> = endpoints.iter().map(|endpoint| to_json(endpoint, None)).collect();
    Ok(Json(json!({ "endpoints": endpoints })))
}

async fn show(
    State(state): State<EndpointsState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<Value>, Problem> {
    caller.require(Right::Manage)?;
    let endpoint = store::get(&state.pool, caller.org_id, id).await.map_err(failed)?;
    endpoint.map(|endpoint| Json(to_json(&endpoint, None))).ok_or_else(Problem::not_found)
}

async fn update(
    State(state): State<EndpointsState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<Json<Value>, Problem> {
    may_write(&caller)?;
    let patch = EndpointPatch::read(&body, &state.policy).map_err(invalid)?;
    let stored = store::update(&state.pool, caller.org_id, id, |endpoint| apply(endpoint, patch, &state.sealing))
        .await
        .map_err(failed)?;
    stored.map(|endpoint| Json(to_json(&endpoint, None))).ok_or_else(Problem::not_found)
}

async fn remove(
    State(state): State<EndpointsState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<StatusCode, Problem> {
    may_write(&caller)?;
    let deleted = store::delete(&state.pool, caller.org_id, id).await.map_err(failed)?;
    if deleted { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::not_found()) }
}

#[derive(Deserialize)]
struct Configuration {
    webhook_url: Value,
}

/// For clients of older trigger APIs, which have one URL per organization: creates the default endpoint, or changes its
/// URL. These clients cannot enable an endpoint, so setting the URL does.
async fn configure(
    State(state): State<EndpointsState>,
    caller: Caller,
    JsonBody(body): JsonBody<Configuration>,
) -> Result<Json<Value>, Problem> {
    may_write(&caller)?;
    let url = input::url(&body.webhook_url, &state.policy)
        .map_err(|reason| invalid(vec![FieldError { field: "webhook_url".to_owned(), reason }]))?;
    let updated = match store::default_of(&state.pool, caller.org_id).await.map_err(failed)? {
        Some(default) => {
            let patch = EndpointPatch { url: Some(url.clone()), enabled: Some(true), ..EndpointPatch::default() };
            let change = |endpoint: &mut StoredEndpoint| apply(endpoint, patch, &state.sealing);
            store::update(&state.pool, caller.org_id, default.id, change).await.map_err(failed)?
        }
        None => None,
    };
    let (endpoint, secret) = match updated {
        Some(endpoint) => (endpoint, None),
        None => {
            let (mut endpoint, secret) = new_endpoint(&state.sealing, caller.org_id, url);
            endpoint.is_default = true;
            (store::create(&state.pool, &endpoint).await.map_err(refused)?, Some(secret))
        }
    };
    let mut answer = json!({
        "success": true,
        "organization_id": endpoint.org_id,
        "webhook_url": endpoint.url,
        "endpoint_id": endpoint.id,
        "updated_at": Timestamp(endpoint.updated_at),
        "message": "events are delivered to this URL",
    });
    if let Some(secret) = secret {
        answer["secret"] = Value::from(secret.to_text());
    }
    Ok(Json(answer))
}

/// A key that is restricted to event types may not write endpoints: they would get events that the key may not read.
fn may_write(caller: &Caller) -> Result<(), Problem> {
    caller.require(Right::Manage)?;
    if caller.event_types.is_some() {
        return Err(Problem::forbidden("a key that is restricted to event types cannot create or change endpoints"));
    }
    Ok(())
}

fn new_endpoint(sealing: &SealingKey, org_id: OrgId, url: String) -> (StoredEndpoint, Secret) {
    let (id, secret) = (EndpointId::generate(), Secret::generate());
    let now = OffsetDateTime::now_utc();
    let endpoint = StoredEndpoint {
        id,
        org_id,
        url,
        event_types: Vec::new(),
        description: None,
        sealed_headers: None,
        sealed_secret: Some(secrets::seal_secret(sealing, id, &secret)),
        max_in_flight: None,
        timeout_seconds: signed(DEFAULT_TIMEOUT_SECONDS),
        retry_schedule: DEFAULT_DELAYS_SECONDS.map(signed).to_vec(),
        enabled: true,
        disabled_reason: None,
        is_default: false,
        created_at: now,
        updated_at: now,
        deleted_at: None,
    };
    (endpoint, secret)
}

fn apply(endpoint: &mut StoredEndpoint, patch: EndpointPatch, sealing: &SealingKey) {
    let EndpointPatch {
        url,
        event_types,
        description,
        headers,
        max_in_flight,
        timeout_seconds,
        retry_schedule,
        enabled,
    } = patch;
    if let Some(url) = url {
        endpoint.url = url;
    }
    if let Some(event_types) = event_types {
        endpoint.event_types = event_types;
    }
    if let Some(description) = description {
        endpoint.description = description;
    }
    if let Some(headers) = headers {
        endpoint.sealed_headers = secrets::seal_headers(sealing, endpoint.id, &headers);
    }
    if let Some(max_in_flight) = max_in_flight {
        endpoint.max_in_flight = max_in_flight.map(signed);
    }
    if let Some(timeout_seconds) = timeout_seconds {
        endpoint.timeout_seconds = signed(timeout_seconds);
    }
    if let Some(retry_schedule) = retry_schedule {
        endpoint.retry_schedule = retry_schedule.into_iter().map(signed).collect();
    }
    if let Some(enabled) = enabled {
        // Disabling a disabled endpoint keeps its reason.
        if enabled != endpoint.enabled {
            endpoint.disabled_reason = (!enabled).then(|| "requested".to_owned());
        }
        endpoint.enabled = enabled;
    }
}

/// Headers and secret are write-only. The secret is returned once, in the response to the creation.
fn to_json(endpoint: &StoredEndpoint, secret: Option<&Secret>) -> Value {
    let mut value = json!({
        "id": endpoint.id,
        "url": endpoint.url,
        "event_types": endpoint.event_types,
        "description": endpoint.description,
        "max_in_flight": endpoint.max_in_flight,
        "timeout_seconds": endpoint.timeout_seconds,
        "retry_schedule": endpoint.retry_schedule,
        "enabled": endpoint.enabled,
        "status": if endpoint.enabled { "enabled" } else { "disabled" },
        "disabled_reason": endpoint.disabled_reason,
        "created_at": Timestamp(endpoint.created_at),
        "updated_at": Timestamp(endpoint.updated_at),
    });
    if let Some(secret) = secret {
        value["secret"] = Value::from(secret.to_text());
    }
    value
}

fn invalid(details: Vec<FieldError>) -> Problem {
    let text: Vec<String> = details.iter().map(|error| format!("{} {}", error.field, error.reason)).collect();
    Problem::invalid("invalid_endpoint", text.join("; ")).with_details(details)
}

fn refused(error: CreateError) -> Problem {
    match error {
        CreateError::TooMany => Problem::new(StatusCode::CONFLICT, "too_many_endpoints", error.to_string()),
        CreateError::Erased => Problem::unauthorized(error.to_string()),
        CreateError::Sql(error) => failed(error),
    }
}

fn failed(error: sqlx::Error) -> Problem {
    match effect(&error) {
        SqlEffect::Unavailable | SqlEffect::Retry => {
            warn!(%error, "Database unavailable; refusing a request to an endpoint route.");
            Problem::unavailable("endpoints cannot be read or changed at the moment", 1)
        }
        // A second default endpoint was created at the same time. When the client retries, it finds the first.
        SqlEffect::Data => {
            Problem::new(StatusCode::CONFLICT, "conflict", "another change was made at the same moment; try again")
        }
        SqlEffect::Fatal => {
            error!(%error, "Request to an endpoint route failed.");
            Problem::internal()
        }
    }
}
