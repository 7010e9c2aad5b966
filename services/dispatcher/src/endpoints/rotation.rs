//! `POST /endpoints/{id}/secret/rotate`.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use http_server::{FieldError, JsonBody, PathId, Problem, Timestamp};
use schemas::ids::EndpointId;
use serde::{Deserialize, Serialize};
use tenancy::audit::{Actor, Origin};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::EndpointsState;
use super::edit;
use super::managers::EndpointWriter;
use super::notes::note;
use super::problems::{failed, invalid};
use super::store;
use crate::attempt::sign::Secret;

const DEFAULT_OVERLAP_SECONDS: u32 = 86_400;
const MAX_OVERLAP_SECONDS: u32 = 604_800;

/// How to rotate the secret.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SecretRotation, example = json!({"overlap_seconds": 3600}))]
pub(super) struct SecretRotation {
    /// How long webhooks are signed with the previous secret as well. Default 86400; 0: not at all.
    #[schema(maximum = 604800)]
    overlap_seconds: Option<u32>,
}

/// The new secret.
#[derive(Serialize, ToSchema)]
#[schema(as = RotatedSecret, example = json!({
    "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "previous_expires_at": "2026-11-21T10:00:00.123Z"
}))]
struct RotatedSecret {
    /// Only in this response: keep it.
    secret: String,
    /// Until then, webhooks have a signature with the previous secret, too.
    previous_expires_at: Timestamp,
}

/// Rotate the secret of an endpoint
///
/// During the overlap, each webhook has a signature with the new secret and one with the previous. There is at most one
/// previous secret: another rotation ends the one before.
#[utoipa::path(
    post, path = "/endpoints/{id}/secret/rotate", operation_id = "rotate_endpoint_secret", tag = "Webhooks",
    params(("id" = EndpointId, Path, description = "Id of the endpoint.")),
    request_body = Option<SecretRotation>,
    responses((status = 200, description = "The new secret.", body = RotatedSecret)),
    security(("key" = ["manage"])),
    extensions(("x-error-codes" = json!(["invalid_endpoint"]))),
)]
pub(super) async fn rotate(
    EndpointWriter(caller): EndpointWriter,
    State(state): State<EndpointsState>,
    origin: Origin,
    PathId(id): PathId<EndpointId>,
    body: Option<JsonBody<SecretRotation>>,
) -> Result<Response, Problem> {
    let overlap = body.and_then(|JsonBody(rotation)| rotation.overlap_seconds).unwrap_or(DEFAULT_OVERLAP_SECONDS);
    if overlap > MAX_OVERLAP_SECONDS {
        let reason = format!("must be from 0 to {MAX_OVERLAP_SECONDS}");
        return Err(invalid(vec![FieldError::new("overlap_seconds", reason)]));
    }
    let mut transaction = state.begin_change(caller.org_id).await?;
    let version = store::raise_version(&mut transaction).await.map_err(failed)?;
    let (secret, now) = (Secret::generate(), OffsetDateTime::now_utc());
    let overlap = Duration::from_secs(u64::from(overlap));
    let change = |endpoint: &mut _| edit::rotate(endpoint, &secret, overlap, &state.sealing, now);
    let stored = store::update(&mut transaction, version, caller.org_id, id, change)
        .await
        .map_err(failed)?
        .ok_or_else(Problem::not_found)?;
    let actor = Actor::Key(caller.key_id);
    note(&mut transaction, actor, Some(&origin), "endpoint.secret_rotated", &stored).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    let previous_expires_at = Timestamp(stored.previous_expires_at.unwrap_or(now));
    let body = RotatedSecret { secret: secret.to_text(), previous_expires_at };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}
