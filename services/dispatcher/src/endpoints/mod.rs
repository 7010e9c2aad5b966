//! Webhook endpoints: the routes that manage them (here), the validation (`input`), the sealed secrets (`secrets`), and
//! the rows (`store`); the cache of the dispatcher (`cache`, `matching`). Nothing here needs Kafka.

mod bodies;
pub(crate) mod cache;
pub(crate) mod input;
pub(crate) mod matching;
pub(crate) mod secrets;
pub(crate) mod store;

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRef, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use http_server::{FieldError, JsonBody, JsonObject, PathId, Problem, Routes, Timestamp};
use runtime::postgres::{SqlEffect, effect};
use runtime::seal::SealingKey;
use schemas::ids::{EndpointId, OrgId};
use serde::Deserialize;
use serde_json::Value;
use sqlx::postgres::PgPool;
use tenancy::{Authenticator, Caller, Right};
use time::OffsetDateTime;
use tracing::{error, warn};
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::attempt::egress::EgressPolicy;
use crate::attempt::sign::Secret;
use crate::delivery::signed;
use crate::retry::policy::DEFAULT_DELAYS_SECONDS;
use bodies::{ConfiguredBody, EndpointBody, EndpointList, EndpointPatchBody, NewEndpointBody};
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
    described().with_state(EndpointsState { authenticator, pool, sealing, policy: Arc::new(policy) }).into()
}

/// What the routes say of themselves.
pub fn openapi() -> OpenApi {
    described().into_openapi()
}

fn described() -> OpenApiRouter<EndpointsState> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(show, update, remove)).routes(routes!(configure))
}

/// Create an endpoint
///
/// Events that match are delivered to it as signed webhooks. The response has its secret, for this once.
#[utoipa::path(
    post, path = "/endpoints", operation_id = "create_endpoint", tag = "Webhooks",
    request_body = NewEndpointBody,
    responses((status = 201, description = "The endpoint, with its secret.", body = EndpointBody,
        headers(("Location" = String, description = "Path of the endpoint.")))),
    security(("key" = ["manage"])),
    extensions(("x-error-codes" = json!(["invalid_endpoint", "too_many_endpoints", "conflict"]))),
)]
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
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(EndpointBody::revealing(stored, &secret)))
        .into_response())
}

/// List the endpoints
#[utoipa::path(
    get, path = "/endpoints", operation_id = "list_endpoints", tag = "Webhooks",
    responses((status = 200, description = "The endpoints of the organization.", body = EndpointList)),
    security(("key" = ["manage"])),
)]
async fn list(State(state): State<EndpointsState>, caller: Caller) -> Result<Json<EndpointList>, Problem> {
    caller.require(Right::Manage)?;
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
    State(state): State<EndpointsState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<EndpointBody>, Problem> {
    caller.require(Right::Manage)?;
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
    extensions(("x-error-codes" = json!(["invalid_endpoint", "conflict"]))),
)]
async fn update(
    State(state): State<EndpointsState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
    JsonBody(body): JsonBody<JsonObject>,
) -> Result<Json<EndpointBody>, Problem> {
    may_write(&caller)?;
    let patch = EndpointPatch::read(&body, &state.policy).map_err(invalid)?;
    let stored = store::update(&state.pool, caller.org_id, id, |endpoint| apply(endpoint, patch, &state.sealing))
        .await
        .map_err(failed)?;
    stored.map(|endpoint| Json(EndpointBody::new(endpoint))).ok_or_else(Problem::not_found)
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
    State(state): State<EndpointsState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<StatusCode, Problem> {
    may_write(&caller)?;
    let deleted = store::delete(&state.pool, caller.org_id, id).await.map_err(failed)?;
    if deleted { Ok(StatusCode::NO_CONTENT) } else { Err(Problem::not_found()) }
}

/// The URL to deliver to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookUrl, example = json!({"webhook_url": "https://shop.example/hook"}))]
struct Configuration {
    /// http or https, without user-info. Private and reserved addresses are refused.
    #[schema(value_type = String)]
    webhook_url: Value,
}

/// Set the URL of the default endpoint
///
/// For clients of older trigger APIs, which have one URL per organization: creates the default endpoint, or changes its
/// URL. These clients cannot enable an endpoint, so setting the URL does.
#[utoipa::path(
    post, path = "/webhook/config", operation_id = "configure_webhook", tag = "Webhooks",
    request_body = Configuration,
    responses((status = 200, description = "The default endpoint.", body = ConfiguredBody)),
    security(("key" = ["manage"])),
    extensions(("x-error-codes" = json!(["invalid_endpoint", "too_many_endpoints", "conflict"]))),
)]
async fn configure(
    State(state): State<EndpointsState>,
    caller: Caller,
    JsonBody(body): JsonBody<Configuration>,
) -> Result<Json<ConfiguredBody>, Problem> {
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
    Ok(Json(ConfiguredBody {
        success: true,
        organization_id: endpoint.org_id,
        webhook_url: endpoint.url,
        endpoint_id: endpoint.id,
        updated_at: Timestamp(endpoint.updated_at),
        message: "events are delivered to this URL",
        secret: secret.map(|secret| secret.to_text()),
    }))
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
