//! Routes that change existing keys: patch, rotate, revoke. The rule for all of them is in `grant`.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use http_server::{JsonBody, PatchMember, PathId, Problem, Timestamp};
use schemas::ids::{KeyId, OrgId};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;
use time::{Duration, OffsetDateTime};
use utoipa::ToSchema;

use super::keys::{WantedKey, issue};
use super::reply::{KeyReply, secret};
use super::validation::{check_name, forbidden, invalid};
use crate::audit::{self, Actor, Change, Origin};
use crate::caller::Caller;
use crate::extract::Manager;
use crate::grant::Fault;
use crate::keys::{self, StoredKey};
use crate::refusal::{Refusal, database_problem};
use crate::role::Role;
use crate::service::Tenancy;

/// The old key may be valid for 30 days at most after its rotation.
const LONGEST_OVERLAP_SECONDS: u32 = 30 * 24 * 3_600;

/// Absent members are unchanged. `null` removes the restriction of the members that may be null.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"rate_limit_per_minute": 60, "expires_at": null}))]
pub(super) struct KeyPatch {
    #[serde(default)]
    #[schema(value_type = String, min_length = 1, max_length = 255)]
    name: PatchMember<String>,
    #[serde(default)]
    #[schema(value_type = Role)]
    role: PatchMember<Role>,
    /// Null: all types.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>, min_items = 1)]
    event_types: PatchMember<Option<Vec<String>>>,
    /// Null: the limit of the organization.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 2147483647)]
    rate_limit_per_minute: PatchMember<Option<u32>>,
    #[serde(default)]
    #[schema(value_type = bool)]
    content_dedup: PatchMember<bool>,
    /// Null: never.
    #[serde(default)]
    #[schema(value_type = Option<Timestamp>)]
    expires_at: PatchMember<Option<Timestamp>>,
}

impl KeyPatch {
    fn apply(self, key: &StoredKey) -> StoredKey {
        let mut key = key.clone();
        key.name = self.name.0.unwrap_or(key.name);
        key.content_dedup = self.content_dedup.0.unwrap_or(key.content_dedup);
        key.grant.role = self.role.0.unwrap_or(key.grant.role);
        key.grant.event_types = self.event_types.0.unwrap_or(key.grant.event_types);
        key.grant.rate_limit_per_minute = self.rate_limit_per_minute.0.unwrap_or(key.grant.rate_limit_per_minute);
        if let PatchMember(Some(expiry)) = self.expires_at {
            key.grant.expires_at = expiry.map(|Timestamp(end)| end);
        }
        key
    }
}

/// The key of the caller, and the key that it wants to change; both locked.
struct Pair {
    own: StoredKey,
    target: StoredKey,
}

/// Read from the table rather than the cache: a key that was just revoked or narrowed changes no key.
async fn lock(conn: &mut PgConnection, caller: &Caller, target: KeyId) -> Result<Pair, Problem> {
    let locked =
        keys::lock(conn, caller.org_id, &[caller.key_id, target]).await.map_err(|error| database_problem(&error))?;
    let of = |id: KeyId| locked.iter().find(|key| key.id == id).cloned();
    let own = of(caller.key_id).filter(|key| key.revoked_at.is_none()).ok_or(Refusal::Unknown)?;
    Ok(Pair { own, target: of(target).ok_or_else(Problem::not_found)? })
}

async fn note(
    conn: &mut PgConnection,
    caller: &Caller,
    origin: &Origin,
    action: &'static str,
    target: &StoredKey,
) -> Result<(), Problem> {
    let change = Change { org_id: caller.org_id, action, target: target.id.as_uuid() };
    audit::append(conn, Actor::Key(caller.key_id), Some(origin), change, &target.audit_detail())
        .await
        .map_err(|error| database_problem(&error))
}

/// Change a key
///
/// Takes effect on all instances within a second. A key gives no more rights than it has.
#[utoipa::path(
    patch, path = "/keys/{id}", operation_id = "change_key", tag = "Keys",
    params(("id" = KeyId, Path, description = "Id of the key.")),
    request_body = KeyPatch,
    responses((status = 200, description = "The changed key.", body = KeyReply)),
    security(("key" = ["manage"])),
)]
pub(super) async fn patch(
    Manager(caller): Manager,
    State(tenancy): State<Tenancy>,
    origin: Origin,
    PathId(key_id): PathId<KeyId>,
    JsonBody(patch): JsonBody<KeyPatch>,
) -> Result<Json<KeyReply>, Problem> {
    let mut transaction = runtime::postgres::begin(&tenancy.pool).await.map_err(|error| database_problem(&error))?;
    let Pair { own, target } = lock(&mut transaction, &caller, key_id).await?;
    if target.revoked_at.is_some() {
        return Err(Problem::not_found());
    }
    let changed = patch.apply(&target);
    check_name("name", &changed.name)?;
    changed.grant.check(OffsetDateTime::now_utc()).map_err(invalid)?;
    own.grant.may_patch(&target.grant, &changed.grant, own.id == target.id).map_err(forbidden)?;
    keys::update(&mut transaction, &changed).await.map_err(|error| database_problem(&error))?;
    note(&mut transaction, &caller, &origin, "key.changed", &changed).await?;
    transaction.commit().await.map_err(|error| database_problem(&error))?;
    // Other instances are notified; this one does not wait for the notification.
    tenancy.authenticator.cache().invalidate_key(key_id);
    Ok(Json(KeyReply::from(changed)))
}

/// Revoke a key
///
/// Takes effect on all instances within a second.
#[utoipa::path(
    delete, path = "/keys/{id}", operation_id = "revoke_key", tag = "Keys",
    params(("id" = KeyId, Path, description = "Id of the key.")),
    responses((status = 204, description = "It is revoked.")),
    security(("key" = ["manage"])),
)]
pub(super) async fn revoke(
    Manager(caller): Manager,
    State(tenancy): State<Tenancy>,
    origin: Origin,
    PathId(key_id): PathId<KeyId>,
) -> Result<StatusCode, Problem> {
    let mut transaction = runtime::postgres::begin(&tenancy.pool).await.map_err(|error| database_problem(&error))?;
    let Pair { own, target } = lock(&mut transaction, &caller, key_id).await?;
    if own.id != target.id {
        own.grant.may_change(&target.grant).map_err(forbidden)?;
    }
    if target.revoked_at.is_none() {
        keys::revoke(&mut transaction, key_id).await.map_err(|error| database_problem(&error))?;
        note(&mut transaction, &caller, &origin, "key.revoked", &target).await?;
    }
    transaction.commit().await.map_err(|error| database_problem(&error))?;
    tenancy.authenticator.cache().invalidate_key(key_id);
    Ok(StatusCode::NO_CONTENT)
}

/// How to rotate.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"overlap_seconds": 3600}))]
pub(super) struct Rotation {
    /// How long the old key stays valid, at most 30 days. 0, the default: not at all.
    #[serde(default)]
    #[schema(maximum = 2592000)]
    overlap_seconds: u32,
}

/// The new key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "api_key": "zap_live_8Qs2...",
    "key_id": "0192f0c1-2345-7abc-8def-0123456789af",
    "organization_id": "0192f0c1-2345-7abc-8def-0123456789ae",
    "organization_name": "Shop",
    "rotated_at": "2026-11-21T09:00:00.123Z",
    "old_key_expires_at": "2026-11-21T10:00:00.123Z"
}))]
struct Rotated<'a> {
    /// In clear text for this once.
    api_key: &'a str,
    key_id: KeyId,
    organization_id: OrgId,
    organization_name: String,
    rotated_at: Timestamp,
    old_key_expires_at: Timestamp,
}

/// Rotate the key of the request
///
/// A new key with the same name, rights and expiry takes its place. The old one is dead at once, or after the overlap.
#[utoipa::path(
    post, path = "/keys/rotate", operation_id = "rotate_key", tag = "Keys",
    request_body = Option<Rotation>,
    responses((status = 200, description = "The new key.", body = Rotated)),
    security(("key" = ["manage"])),
    extensions(("x-error-codes" = json!(["development_key", "too_many_keys"]))),
)]
pub(super) async fn rotate(
    Manager(caller): Manager,
    State(tenancy): State<Tenancy>,
    origin: Origin,
    body: Option<JsonBody<Rotation>>,
) -> Result<Response, Problem> {
    let overlap = body.map_or(0, |JsonBody(rotation)| rotation.overlap_seconds);
    if overlap > LONGEST_OVERLAP_SECONDS {
        return Err(invalid(Fault { field: "overlap_seconds", reason: "at most 2592000, which is 30 days" }));
    }
    let mut transaction = runtime::postgres::begin(&tenancy.pool).await.map_err(|error| database_problem(&error))?;
    // Locked before the keys: a change of the organization locks it before it raises the version, as revoking does.
    let organization_name = crate::organizations::lock_name(&mut transaction, caller.org_id)
        .await
        .map_err(|error| database_problem(&error))?
        .ok_or(Refusal::Unknown)?;
    let Pair { own, .. } = lock(&mut transaction, &caller, caller.key_id).await?;
    let wanted = WantedKey::like(&own).ok_or_else(|| {
        let text = "a development key comes from the configuration; change it there";
        Problem::new(StatusCode::CONFLICT, "development_key", text)
    })?;
    let rotated_at = OffsetDateTime::now_utc();
    let end = rotated_at + Duration::seconds(i64::from(overlap));
    let end = own.grant.expires_at.map_or(end, |expires_at| expires_at.min(end));
    let mut old = own;
    if overlap == 0 {
        keys::revoke(&mut transaction, old.id).await.map_err(|error| database_problem(&error))?;
    } else {
        old.grant.expires_at = Some(end);
        keys::update(&mut transaction, &old).await.map_err(|error| database_problem(&error))?;
    }
    let issued = issue(&mut transaction, caller.org_id, &wanted, Some(&old)).await?;
    note(&mut transaction, &caller, &origin, "key.rotated", &old).await?;
    note(&mut transaction, &caller, &origin, "key.created", &issued.stored).await?;
    transaction.commit().await.map_err(|error| database_problem(&error))?;
    tenancy.authenticator.cache().invalidate_key(caller.key_id);
    Ok(secret(
        StatusCode::OK,
        Rotated {
            api_key: issued.text.reveal(),
            key_id: issued.stored.id,
            organization_id: caller.org_id,
            organization_name,
            rotated_at: Timestamp(rotated_at),
            old_key_expires_at: Timestamp(end),
        },
    ))
}
