//! The table of keys. `grant` has the rule which key may create which; `auth` and `watch` have the cache.

use std::sync::Arc;
use std::time::Instant;

use http_server::{RateLimitSlot, Timestamp};
use schemas::ids::{KeyId, OrgId};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::cache::Cached;
use crate::caller::Caller;
use crate::grant::Grant;
use crate::key::KeyHash;
use crate::limits::Limits;
use crate::role::Role;
use crate::tenant::Tenants;
use crate::tier::Tier;

/// Keys of one organization at most, without revoked and expired ones.
pub(crate) const MAX_KEYS: i64 = 1_000;

/// The environment of a key from the configuration.
pub(crate) const DEVELOPMENT: &str = "development";

/// A valid key, as the authenticator reads it.
#[derive(Debug)]
pub(crate) struct FoundKey {
    pub key_id: KeyId,
    /// Whether it comes from the configuration. It is valid only in processes whose configuration lists it.
    pub is_development: bool,
    pub hash: KeyHash,
    org_id: OrgId,
    role: Role,
    event_types: Option<Vec<String>>,
    content_dedup: bool,
    expires_at: Option<OffsetDateTime>,
    /// Requests per minute of the organization: its own limit or that of its tier; 0: unlimited.
    organization_limit: u32,
    /// The limit of the key; 0: unlimited.
    key_limit: Option<u32>,
    /// Whose window its own limit is of.
    limit_scope: KeyId,
}

impl FoundKey {
    /// The cache entry of a key that was read at `now`. Sets its limits for all requests in this process.
    pub(crate) fn into_cached(self, now: Instant, tenants: &Tenants, limits: &Limits) -> Cached {
        let tenant = tenants.get(self.org_id, limits);
        let key_limit = if self.is_development { Some(0) } else { self.key_limit };
        let caller = Caller {
            limits: tenant.limits_of_key(limits, self.limit_scope, self.organization_limit, key_limit),
            rate_limit: RateLimitSlot::default(),
            tenant,
            org_id: self.org_id,
            key_id: self.key_id,
            role: self.role,
            event_types: self.event_types.map(Arc::from),
            content_dedup: self.content_dedup,
            request: None,
        };
        Cached { caller, expires_at: self.expires_at, checked_at: now }
    }
}

impl FromRow<'_, PgRow> for FoundKey {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let hash = KeyHash::from_stored(row.try_get("hash")?)
            .ok_or_else(|| sqlx::Error::Decode("a key's hash has not 32 bytes".into()))?;
        let name: &str = row.try_get("tier")?;
        let tier = Tier::from_name(name).ok_or_else(|| sqlx::Error::Decode(format!("unknown tier {name}").into()))?;
        let organization_limit: Option<i32> = row.try_get("organization_limit")?;
        let key_limit: Option<i32> = row.try_get("rate_limit_per_minute")?;
        Ok(Self {
            key_id: KeyId::from_uuid(row.try_get("id")?),
            is_development: row.try_get::<&str, _>("environment")? == DEVELOPMENT,
            hash,
            org_id: OrgId::from_uuid(row.try_get("org_id")?),
            role: role(row)?,
            event_types: row.try_get("event_types")?,
            content_dedup: row.try_get("content_dedup")?,
            expires_at: row.try_get("expires_at")?,
            // Never negative: the tables check it.
            organization_limit: organization_limit.map_or(tier.per_minute(), i32::unsigned_abs),
            key_limit: key_limit.map(i32::unsigned_abs),
            limit_scope: limit_scope(row)?,
        })
    }
}

/// A key as its organization sees it.
#[derive(Debug, Clone)]
pub(crate) struct StoredKey {
    pub id: KeyId,
    pub name: String,
    pub prefix: String,
    /// live, test or development.
    pub environment: String,
    pub grant: Grant,
    /// Whose window its own limit is of.
    limit_scope: KeyId,
    /// Whether events with equal content are duplicates.
    pub content_dedup: bool,
    pub created_at: OffsetDateTime,
    pub revoked_at: Option<OffsetDateTime>,
}

impl StoredKey {
    /// The window that the keys count in which this one makes, or which replace it; `None`: each has its own. With a
    /// limit of its own it shares its window, or it could make itself any number of full ones.
    pub(crate) fn shared_limit_scope(&self) -> Option<KeyId> {
        self.grant.rate_limit_per_minute.filter(|limit| *limit > 0).map(|_| self.limit_scope)
    }

    /// What an audit entry shows of it.
    pub(crate) fn audit_detail(&self) -> Value {
        json!({
            "name": self.name, "prefix": self.prefix, "role": self.grant.role, "event_types": self.grant.event_types,
            "rate_limit_per_minute": self.grant.rate_limit_per_minute, "content_dedup": self.content_dedup,
            "expires_at": self.grant.expires_at.map(Timestamp),
        })
    }
}

impl FromRow<'_, PgRow> for StoredKey {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let limit: Option<i32> = row.try_get("rate_limit_per_minute")?;
        Ok(Self {
            id: KeyId::from_uuid(row.try_get("id")?),
            name: row.try_get("name")?,
            prefix: row.try_get("prefix")?,
            environment: row.try_get("environment")?,
            grant: Grant {
                role: role(row)?,
                event_types: row.try_get("event_types")?,
                // Never negative: the table checks it.
                rate_limit_per_minute: limit.map(i32::unsigned_abs),
                expires_at: row.try_get("expires_at")?,
            },
            limit_scope: limit_scope(row)?,
            content_dedup: row.try_get("content_dedup")?,
            created_at: row.try_get("created_at")?,
            revoked_at: row.try_get("revoked_at")?,
        })
    }
}

fn role(row: &PgRow) -> Result<Role, sqlx::Error> {
    let name: &str = row.try_get("role")?;
    Role::from_name(name).ok_or_else(|| sqlx::Error::Decode(format!("unknown role {name}").into()))
}

fn limit_scope(row: &PgRow) -> Result<KeyId, sqlx::Error> {
    let shared: Option<Uuid> = row.try_get("limit_scope_id")?;
    Ok(KeyId::from_uuid(shared.map_or_else(|| row.try_get("id"), Ok)?))
}

/// The version counter, which grows with every change that can revoke a right.
pub(crate) async fn version(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT version FROM tenancy_version").fetch_one(pool).await
}

/// The valid keys with these prefixes, which are not secret. The caller compares the hashes, in constant time.
pub(crate) async fn find(pool: &PgPool, prefixes: &[&str]) -> Result<Vec<FoundKey>, sqlx::Error> {
    sqlx::query_as(
        "SELECT k.id, k.org_id, k.role, k.environment, k.hash, k.event_types, k.content_dedup, k.expires_at,
                k.rate_limit_per_minute, k.limit_scope_id, o.tier, o.rate_limit_per_minute AS organization_limit
         FROM api_keys k JOIN organizations o ON o.id = k.org_id
         WHERE k.prefix = ANY ($1) AND k.revoked_at IS NULL AND o.status = 'active'",
    )
    .bind(prefixes)
    .fetch_all(pool)
    .await
}

/// The keys of `ids` that are still valid.
pub(crate) async fn find_by_ids(pool: &PgPool, ids: &[KeyId]) -> Result<Vec<FoundKey>, sqlx::Error> {
    sqlx::query_as(
        "SELECT k.id, k.org_id, k.role, k.environment, k.hash, k.event_types, k.content_dedup, k.expires_at,
                k.rate_limit_per_minute, k.limit_scope_id, o.tier, o.rate_limit_per_minute AS organization_limit
         FROM api_keys k JOIN organizations o ON o.id = k.org_id
         WHERE k.id = ANY($1) AND k.revoked_at IS NULL AND o.status = 'active'",
    )
    .bind(ids.iter().map(KeyId::as_uuid).collect::<Vec<_>>())
    .fetch_all(pool)
    .await
}

#[derive(Debug)]
pub(crate) struct KeyToStore<'a> {
    pub name: &'a str,
    /// live, test or development.
    pub environment: &'a str,
    pub prefix: &'a str,
    pub hash: KeyHash,
    pub grant: &'a Grant,
    /// The key whose window it counts in; `None`: its own.
    pub limit_scope: Option<KeyId>,
    /// Whether events with equal content are duplicates.
    pub content_dedup: bool,
}

/// Stores a key of an active organization. `None` when there is no such organization.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    org_id: OrgId,
    key: &KeyToStore<'_>,
) -> Result<Option<StoredKey>, sqlx::Error> {
    sqlx::query_as(
        "INSERT INTO api_keys (id, org_id, name, role, environment, prefix, hash, event_types, rate_limit_per_minute,
                               content_dedup, expires_at, limit_scope_id)
         SELECT $1, o.id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12
         FROM organizations o WHERE o.id = $2 AND o.status = 'active' FOR SHARE
         RETURNING id, name, prefix, environment, role, event_types, rate_limit_per_minute, expires_at, content_dedup,
                   limit_scope_id, created_at, revoked_at",
    )
    .bind(KeyId::generate().as_uuid())
    .bind(org_id.as_uuid())
    .bind(key.name)
    .bind(key.grant.role.name())
    .bind(key.environment)
    .bind(key.prefix)
    .bind(key.hash.as_bytes().as_slice())
    .bind(key.grant.event_types.as_deref())
    .bind(key.grant.rate_limit_per_minute.map(u32::cast_signed))
    .bind(key.content_dedup)
    .bind(key.grant.expires_at)
    .bind(key.limit_scope.map(|id| id.as_uuid()))
    .fetch_optional(conn)
    .await
}

/// Counts the keys of the organization that are neither revoked nor expired.
pub(crate) async fn count(conn: &mut PgConnection, org_id: OrgId) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT count(*) FROM api_keys
         WHERE org_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())",
    )
    .bind(org_id.as_uuid())
    .fetch_one(conn)
    .await
}

/// One valid key of the organization, uncached. The row is locked against revocation until the transaction ends.
pub(crate) async fn find_stored(
    conn: &mut PgConnection,
    org_id: OrgId,
    key_id: KeyId,
) -> Result<Option<StoredKey>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, name, prefix, environment, role, event_types, rate_limit_per_minute, expires_at, content_dedup,
                limit_scope_id, created_at, revoked_at
         FROM api_keys WHERE org_id = $1 AND id = $2 AND revoked_at IS NULL FOR SHARE",
    )
    .bind(org_id.as_uuid())
    .bind(key_id.as_uuid())
    .fetch_optional(conn)
    .await
}

/// At most [`MAX_KEYS`] keys of the organization: unrevoked ones first, then by age, newest first.
pub(crate) async fn list(pool: &PgPool, org_id: OrgId) -> Result<Vec<StoredKey>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, name, prefix, environment, role, event_types, rate_limit_per_minute, expires_at, content_dedup,
                limit_scope_id, created_at, revoked_at
         FROM api_keys WHERE org_id = $1 ORDER BY revoked_at IS NOT NULL, created_at DESC, id LIMIT $2",
    )
    .bind(org_id.as_uuid())
    .bind(MAX_KEYS)
    .fetch_all(pool)
    .await
}

/// Keys of the organization among `ids`, revoked ones too, uncached. The rows are locked until the transaction ends, in
/// the order of their ids, so that two requests never wait for each other.
pub(crate) async fn lock(conn: &mut PgConnection, org_id: OrgId, ids: &[KeyId]) -> Result<Vec<StoredKey>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, name, prefix, environment, role, event_types, rate_limit_per_minute, expires_at, content_dedup,
                limit_scope_id, created_at, revoked_at
         FROM api_keys WHERE org_id = $1 AND id = ANY ($2) ORDER BY id FOR NO KEY UPDATE",
    )
    .bind(org_id.as_uuid())
    .bind(ids.iter().map(KeyId::as_uuid).collect::<Vec<_>>())
    .fetch_all(conn)
    .await
}

/// Stores the changed name, grant and deduplication of a locked key.
pub(crate) async fn update(conn: &mut PgConnection, key: &StoredKey) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE api_keys SET name = $2, role = $3, event_types = $4, rate_limit_per_minute = $5, content_dedup = $6,
                             expires_at = $7
         WHERE id = $1",
    )
    .bind(key.id.as_uuid())
    .bind(&key.name)
    .bind(key.grant.role.name())
    .bind(key.grant.event_types.as_deref())
    .bind(key.grant.rate_limit_per_minute.map(u32::cast_signed))
    .bind(key.content_dedup)
    .bind(key.grant.expires_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Revokes a locked key.
pub(crate) async fn revoke(conn: &mut PgConnection, key_id: KeyId) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE api_keys SET revoked_at = now() WHERE id = $1").bind(key_id.as_uuid()).execute(conn).await?;
    Ok(())
}
