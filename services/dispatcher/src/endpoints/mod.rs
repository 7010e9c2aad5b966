//! Webhook endpoints: the routes that manage them (here), what may be written (`input`), what is secret (`secrets`),
//! and the rows (`store`).
//!
//! Nothing here needs Kafka. Sending to endpoints is the rest of the crate.

pub(crate) mod input;
pub(crate) mod secrets;
pub(crate) mod store;

use std::sync::Arc;

use axum::extract::{FromRef, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderValue, StatusCode, header};
use platform::http::{FieldError, JsonBody, JsonObject, PathId, Problem, Timestamp};
use platform::postgres::{SqlEffect, effect};
use platform::seal::SealingKey;
use schemas::ids::{EndpointId, OrgId};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use tenancy::{Authenticator, Caller, Right};
use time::OffsetDateTime;
use tracing::{error, warn};

use crate::egress::EgressPolicy;
use crate::retry_policy::DEFAULT_DELAYS_SECONDS;
use crate::sign::Secret;
use input::{DEFAULT_TIMEOUT_SECONDS, Patch};
use store::{StoreError, Stored};

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

/// The routes of webhook endpoints. `policy` says which URLs are taken; it must be the one that the dispatcher runs
/// with.
pub fn routes(authenticator: Authenticator, pool: PgPool, sealing: SealingKey, policy: EgressPolicy) -> Router {
    Router::new()
        .route("/endpoints", post(create).get(list))
        .route("/endpoints/{id}", get(show).patch(update).delete(remove))
        .route("/webhook/config", post(configure))
        .with_state(EndpointsState { authenticator, pool, sealing, policy: Arc::new(policy) })
}

async fn create(
    State(state): State<EndpointsState>,
    caller: Caller,
    JsonBody(JsonObject(body)): JsonBody<JsonObject>,
) -> Result<Response, Problem> {
    may_write(&caller)?;
    let patch = Patch::read(&body, &state.policy).map_err(invalid)?;
    let Some(url) = patch.url.clone() else {
        return Err(invalid(vec![FieldError { field: "url".to_owned(), reason: "is required".to_owned() }]));
    };
    let (mut endpoint, secret) = new_endpoint(&state.sealing, caller.org_id, url);
    apply(&mut endpoint, patch, &state.sealing);
    let stored = store::create(&state.pool, &endpoint).await.map_err(refused)?;
    let location = HeaderValue::from_str(&format!("/v1/endpoints/{}", stored.id)).map_err(|_| Problem::internal())?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(shown(&stored, Some(&secret)))).into_response())
}

async fn list(State(state): State<EndpointsState>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.require(Right::Manage)?;
    let endpoints = store::list(&state.pool, caller.org_id).await.map_err(failed)?;
    let endpoints: Vec<Value> = endpoints.iter().map(|endpoint| shown(endpoint, None)).collect();
    Ok(Json(json!({ "endpoints": endpoints })))
}

async fn show(
    State(state): State<EndpointsState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<Value>, Problem> {
    caller.require(Right::Manage)?;
    let endpoint = store::get(&state.pool, caller.org_id, id).await.map_err(failed)?;
    endpoint.map(|endpoint| Json(shown(&endpoint, None))).ok_or_else(Problem::not_found)
}

async fn update(
    State(state): State<EndpointsState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
    JsonBody(JsonObject(body)): JsonBody<JsonObject>,
) -> Result<Json<Value>, Problem> {
    may_write(&caller)?;
    let patch = Patch::read(&body, &state.policy).map_err(invalid)?;
    let stored = store::update(&state.pool, caller.org_id, id, |endpoint| apply(endpoint, patch, &state.sealing))
        .await
        .map_err(failed)?;
    stored.map(|endpoint| Json(shown(&endpoint, None))).ok_or_else(Problem::not_found)
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

/// For clients of older trigger APIs, which know one URL per organization: makes the default endpoint, or moves it.
/// They know no way to enable one, so setting the URL does.
async fn configure(
    State(state): State<EndpointsState>,
    caller: Caller,
    JsonBody(body): JsonBody<Configuration>,
) -> Result<Json<Value>, Problem> {
    may_write(&caller)?;
    let url = input::url(&body.webhook_url, &state.policy)
        .map_err(|reason| invalid(vec![FieldError { field: "webhook_url".to_owned(), reason }]))?;
    let moved = match store::default_of(&state.pool, caller.org_id).await.map_err(failed)? {
        Some(default) => {
            let patch = Patch { url: Some(url.clone()), enabled: Some(true), ..Patch::default() };
            let change = |endpoint: &mut Stored| apply(endpoint, patch, &state.sealing);
            store::update(&state.pool, caller.org_id, default.id, change).await.map_err(failed)?
        }
        None => None,
    };
    let (endpoint, secret) = match moved {
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

/// A key that is restricted to event types makes no endpoints: they would be sent what the key may not see.
fn may_write(caller: &Caller) -> Result<(), Problem> {
    caller.require(Right::Manage)?;
    if caller.event_types.is_some() {
        return Err(Problem::forbidden("a key that is restricted to event types makes and changes no endpoints"));
    }
    Ok(())
}

fn new_endpoint(sealing: &SealingKey, org_id: OrgId, url: String) -> (Stored, Secret) {
    let (id, secret) = (EndpointId::generate(), Secret::generate());
    let now = OffsetDateTime::now_utc();
    let endpoint = Stored {
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

fn apply(endpoint: &mut Stored, patch: Patch, sealing: &SealingKey) {
    let Patch { url, event_types, description, headers, max_in_flight, timeout_seconds, retry_schedule, enabled } =
        patch;
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
        // Asking for what is already so keeps the reason for which it was disabled.
        if enabled != endpoint.enabled {
            endpoint.disabled_reason = (!enabled).then(|| "requested".to_owned());
        }
        endpoint.enabled = enabled;
    }
}

/// Every number here was checked to be small.
fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Headers and secret are write-only; the secret is shown to whoever made it, once.
fn shown(endpoint: &Stored, secret: Option<&Secret>) -> Value {
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
    let text: Vec<String> = details.iter().map(|fault| format!("{} {}", fault.field, fault.reason)).collect();
    Problem::invalid("invalid_endpoint", text.join("; ")).with_details(details)
}

fn refused(error: StoreError) -> Problem {
    match error {
        StoreError::TooMany => Problem::new(StatusCode::CONFLICT, "too_many_endpoints", error.to_string()),
        StoreError::Erased => Problem::unauthorized(error.to_string()),
        StoreError::Sql(error) => failed(error),
    }
}

fn failed(error: sqlx::Error) -> Problem {
    match effect(&error) {
        SqlEffect::Unavailable | SqlEffect::Retry => {
            warn!(%error, "An endpoint route could not reach the database.");
            Problem::unavailable("endpoints cannot be read or changed at the moment", 1)
        }
        // A second default endpoint made at the same moment: the client's next try finds the first.
        SqlEffect::Data => {
            Problem::new(StatusCode::CONFLICT, "conflict", "another change was made at the same moment; try again")
        }
        SqlEffect::Fatal => {
            error!(%error, "An endpoint route failed.");
            Problem::internal()
        }
    }
}
