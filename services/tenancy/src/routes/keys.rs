//! Routes for keys, for the operator and for organizations.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use http_server::{JsonBody, PathId, Problem, Timestamp};
use schemas::ids::{KeyId, OrgId};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::reply::{KeyReply, created_secret, key_example};
use super::validation::{check_name, forbidden, invalid};
use crate::audit::{self, Actor, Change, Origin};
use crate::caller::Caller;
use crate::extract::Manager;
use crate::grant::Grant;
use crate::key::{self, Environment, KeyHash};
use crate::keys::{self, KeyToStore, MAX_KEYS, StoredKey};
use crate::operator::Operator;
use crate::organizations;
use crate::refusal::{Refusal, database_problem};
use crate::role::Role;
use crate::service::Tenancy;
use crate::tier::{self, Tier};

/// A key to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewKey, example = json!({"name": "shop", "role": "produce"}))]
pub(super) struct WantedKey {
    #[schema(min_length = 1, max_length = 255)]
    name: String,
    /// Not more rights than the key has that creates it.
    role: Role,
    /// Only these types; absent or null: all.
    #[schema(min_items = 1)]
    event_types: Option<Vec<String>>,
    /// Narrows the limit of the organization; absent or null: that limit. 0, unlimited, is the operator's to give.
    #[schema(minimum = 0, maximum = 2147483647)]
    rate_limit_per_minute: Option<u32>,
    /// Whether equal content within 24 hours is a duplicate.
    #[serde(default)]
    content_dedup: bool,
    #[serde(default)]
    environment: Environment,
    /// RFC 3339; absent or null: never.
    expires_at: Option<Timestamp>,
}

impl WantedKey {
    /// An admin key without any restriction.
    pub(super) fn admin(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            role: Role::Admin,
            event_types: None,
            rate_limit_per_minute: None,
            content_dedup: false,
            environment: Environment::default(),
            expires_at: None,
        }
    }

    /// A key with the name and the rights of another one; `None` for a development key.
    pub(super) fn like(key: &StoredKey) -> Option<Self> {
        Some(Self {
            name: key.name.clone(),
            role: key.grant.role,
            event_types: key.grant.event_types.clone(),
            rate_limit_per_minute: key.grant.rate_limit_per_minute,
            content_dedup: key.content_dedup,
            environment: Environment::from_name(&key.environment)?,
            expires_at: key.grant.expires_at.map(Timestamp),
        })
    }

    fn grant(&self) -> Result<Grant, Problem> {
        check_name("name", &self.name)?;
        let grant = Grant {
            role: self.role,
            event_types: self.event_types.clone(),
            rate_limit_per_minute: self.rate_limit_per_minute,
            expires_at: self.expires_at.map(|Timestamp(end)| end),
        };
        grant.check(OffsetDateTime::now_utc()).map_err(invalid)?;
        Ok(grant)
    }
}

/// A new key, with its clear text, which is shown once.
pub(super) struct Issued {
    pub(super) stored: StoredKey,
    pub(super) text: key::NewKey,
}

/// Generates and stores a key. The caller has checked the right to create it. `maker`: the key that creates it, or that
/// it replaces.
pub(super) async fn issue(
    conn: &mut PgConnection,
    org_id: OrgId,
    wanted: &WantedKey,
    maker: Option<&StoredKey>,
) -> Result<Issued, Problem> {
    let grant = wanted.grant()?;
    let existing = keys::count(conn, org_id).await.map_err(|error| database_problem(&error))?;
    if existing >= MAX_KEYS {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "too_many_keys",
            format!("an organization has at most {MAX_KEYS} keys; revoke one"),
        ));
    }
    let text = key::generate(wanted.environment);
    let to_store = KeyToStore {
        name: &wanted.name,
        environment: wanted.environment.name(),
        prefix: &key::prefix(text.reveal()),
        hash: KeyHash::of(text.reveal()),
        grant: &grant,
        limit_scope: maker.and_then(StoredKey::shared_limit_scope),
        content_dedup: wanted.content_dedup,
    };
    let stored = keys::insert(conn, org_id, &to_store).await.map_err(|error| database_problem(&error))?;
    stored.map(|stored| Issued { stored, text }).ok_or_else(Problem::not_found)
}

/// Create a key for an organization
#[utoipa::path(
    post, path = "/organizations/{id}/keys", operation_id = "create_organization_key", tag = "Organizations",
    params(("id" = OrgId, Path, description = "Id of the organization.")),
    request_body = WantedKey,
    responses((status = 201, description = "The key, in clear text for this once.", body = KeyReply)),
    security(("operator" = [])),
    extensions(("x-error-codes" = json!(["too_many_keys"]))),
)]
pub(super) async fn create_for_operator(
    _: Operator,
    State(tenancy): State<Tenancy>,
    origin: Origin,
    PathId(org_id): PathId<OrgId>,
    JsonBody(wanted): JsonBody<WantedKey>,
) -> Result<Response, Problem> {
    let mut transaction = runtime::postgres::begin(&tenancy.pool).await.map_err(|error| database_problem(&error))?;
    let issued = issue(&mut transaction, org_id, &wanted, None).await?;
    note_created(&mut transaction, Actor::Operator, &origin, org_id, &issued.stored).await?;
    transaction.commit().await.map_err(|error| database_problem(&error))?;
    Ok(created_secret(KeyReply::revealing(issued.stored, issued.text.reveal())))
}

/// Appends the audit entry of a new key.
pub(super) async fn note_created(
    conn: &mut PgConnection,
    actor: Actor,
    origin: &Origin,
    org_id: OrgId,
    key: &StoredKey,
) -> Result<(), Problem> {
    audit::append(
        conn,
        actor,
        Some(origin),
        Change { org_id, action: "key.created", target: key.id.as_uuid() },
        &key.audit_detail(),
    )
    .await
    .map_err(|error| database_problem(&error))
}

/// Create a key
#[utoipa::path(
    post, path = "/keys", operation_id = "create_key", tag = "Keys",
    request_body = WantedKey,
    responses((status = 201, description = "The key, in clear text for this once.", body = KeyReply)),
    security(("key" = ["manage"])),
    extensions(("x-error-codes" = json!(["too_many_keys"]))),
)]
pub(super) async fn create(
    Manager(caller): Manager,
    State(tenancy): State<Tenancy>,
    origin: Origin,
    JsonBody(wanted): JsonBody<WantedKey>,
) -> Result<Response, Problem> {
    let mut transaction = runtime::postgres::begin(&tenancy.pool).await.map_err(|error| database_problem(&error))?;
    // Read from the table rather than the cache: a key that was just revoked creates no key.
    let creator = keys::find_stored(&mut transaction, caller.org_id, caller.key_id)
        .await
        .map_err(|error| database_problem(&error))?
        .ok_or(Refusal::Unknown)?;
    creator.grant.may_create(&wanted.grant()?).map_err(forbidden)?;
    let issued = issue(&mut transaction, caller.org_id, &wanted, Some(&creator)).await?;
    note_created(&mut transaction, Actor::Key(caller.key_id), &origin, caller.org_id, &issued.stored).await?;
    transaction.commit().await.map_err(|error| database_problem(&error))?;
    Ok(created_secret(KeyReply::revealing(issued.stored, issued.text.reveal())))
}

/// All keys of an organization.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"keys": [key_example()]}))]
pub(super) struct KeyList {
    keys: Vec<KeyReply>,
}

/// List the keys
///
/// Those of the organization, revoked ones too, without their clear text.
#[utoipa::path(
    get, path = "/keys/list", operation_id = "list_keys", tag = "Keys",
    responses((status = 200, description = "The keys.", body = KeyList)),
    security(("key" = ["manage"])),
)]
pub(super) async fn list(Manager(caller): Manager, State(tenancy): State<Tenancy>) -> Result<Json<KeyList>, Problem> {
    let found = keys::list(&tenancy.pool, caller.org_id).await.map_err(|error| database_problem(&error))?;
    Ok(Json(KeyList { keys: found.into_iter().map(KeyReply::from).collect() }))
}

/// The key of the request, and its organization.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "organization_id": "0192f0c1-2345-7abc-8def-0123456789ae",
    "organization_name": "Shop",
    "tier": "pro",
    "rate_limit_per_minute": 1000,
    "webhook_url": null,
    "role": "admin",
    "key_id": "0192f0c1-2345-7abc-8def-0123456789af",
    "prefix": "zap_live_8Qs2",
    "created_at": "2026-11-21T09:00:00.123Z"
}))]
pub(super) struct OwnKey {
    organization_id: OrgId,
    organization_name: String,
    tier: Tier,
    /// The effective limit of this key; 0: unlimited.
    rate_limit_per_minute: u32,
    /// URL of the default endpoint.
    webhook_url: Option<String>,
    role: Role,
    key_id: KeyId,
    prefix: String,
    created_at: Timestamp,
}

/// Show the key of the request
#[utoipa::path(
    get, path = "/keys", operation_id = "show_own_key", tag = "Keys",
    responses((status = 200, description = "The key, and its organization.", body = OwnKey)),
    security(("key" = [])),
)]
pub(super) async fn show_own(caller: Caller, State(tenancy): State<Tenancy>) -> Result<Json<OwnKey>, Problem> {
    let found = async {
        let organization = organizations::find(&tenancy.pool, caller.org_id).await?;
        let mut conn = tenancy.pool.acquire().await?;
        let stored = keys::find_stored(&mut conn, caller.org_id, caller.key_id).await?;
        Ok(organization.zip(stored))
    };
    let (organization, stored) =
        found.await.map_err(|error: sqlx::Error| database_problem(&error))?.ok_or(Refusal::Unknown)?;
    Ok(Json(OwnKey {
        organization_id: organization.id,
        organization_name: organization.name,
        tier: organization.tier,
        rate_limit_per_minute: tier::limit_of_key(
            organization.rate_limit_per_minute,
            stored.grant.rate_limit_per_minute,
        ),
        webhook_url: organization.webhook_url,
        role: stored.grant.role,
        key_id: stored.id,
        prefix: stored.prefix,
        created_at: Timestamp(stored.created_at),
    }))
}
