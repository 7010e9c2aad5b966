//! The table of organizations.

use schemas::ids::OrgId;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::tier::Tier;

#[derive(Debug, Clone)]
pub(crate) struct Organization {
    /// Also the key of its records on the log.
    pub id: OrgId,
    /// Not unique.
    pub name: String,
    pub tier: Tier,
    /// Requests per minute of the whole organization: its own limit or that of its tier; 0: unlimited.
    pub rate_limit_per_minute: u32,
    pub webhook_url: Option<String>,
    /// active, erasing or erased.
    pub status: String,
    pub created_at: OffsetDateTime,
}

impl FromRow<'_, PgRow> for Organization {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let name: &str = row.try_get("tier")?;
        let tier = Tier::from_name(name).ok_or_else(|| sqlx::Error::Decode(format!("unknown tier {name}").into()))?;
        let limit: Option<i32> = row.try_get("rate_limit_per_minute")?;
        Ok(Self {
            id: OrgId::from_uuid(row.try_get("id")?),
            name: row.try_get("name")?,
            tier,
            // Never negative: the table checks it.
            rate_limit_per_minute: limit.map_or(tier.per_minute(), i32::unsigned_abs),
            webhook_url: row.try_get("webhook_url")?,
            status: row.try_get("status")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// `rate_limit_per_minute`: `None` for the limit of the tier, 0 for unlimited.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    name: &str,
    tier: Tier,
    rate_limit_per_minute: Option<u32>,
    webhook_url: Option<&str>,
) -> Result<Organization, sqlx::Error> {
    sqlx::query_as(
        "INSERT INTO organizations (id, name, tier, rate_limit_per_minute, webhook_url) VALUES ($1, $2, $3, $4, $5)
         RETURNING id, name, tier, rate_limit_per_minute, webhook_url, status, created_at",
    )
    .bind(OrgId::generate().as_uuid())
    .bind(name)
    .bind(tier.name())
    .bind(rate_limit_per_minute.map(u32::cast_signed))
    .bind(webhook_url)
    .fetch_one(conn)
    .await
}

/// Finds an organization in any status.
pub(crate) async fn find(pool: &PgPool, id: OrgId) -> Result<Option<Organization>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, name, tier, rate_limit_per_minute, webhook_url, status, created_at
         FROM organizations WHERE id = $1",
    )
    .bind(id.as_uuid())
    .fetch_optional(pool)
    .await
}

/// Finds an active organization within a transaction. The row is locked against other changes until it ends.
pub(crate) async fn find_in(conn: &mut PgConnection, id: OrgId) -> Result<Option<Organization>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, name, tier, rate_limit_per_minute, webhook_url, status, created_at
         FROM organizations WHERE id = $1 AND status = 'active' FOR SHARE",
    )
    .bind(id.as_uuid())
    .fetch_optional(conn)
    .await
}

/// A change of an organization; `None`: unchanged.
#[derive(Debug)]
pub(crate) struct OrganizationChange {
    pub name: Option<String>,
    pub tier: Option<Tier>,
    /// `Some(None)`: the limit of the tier.
    pub rate_limit_per_minute: Option<Option<u32>>,
    pub webhook_url: Option<String>,
}

/// Changes an active organization. Its trigger invalidates the cached keys of the organization on every instance.
pub(crate) async fn update(
    conn: &mut PgConnection,
    id: OrgId,
    change: &OrganizationChange,
) -> Result<Option<Organization>, sqlx::Error> {
    sqlx::query_as(
        "UPDATE organizations
         SET name = COALESCE($2, name), tier = COALESCE($3, tier), webhook_url = COALESCE($4, webhook_url),
             rate_limit_per_minute = CASE WHEN $5 THEN $6 ELSE rate_limit_per_minute END
         WHERE id = $1 AND status = 'active'
         RETURNING id, name, tier, rate_limit_per_minute, webhook_url, status, created_at",
    )
    .bind(id.as_uuid())
    .bind(change.name.as_deref())
    .bind(change.tier.map(Tier::name))
    .bind(change.webhook_url.as_deref())
    .bind(change.rate_limit_per_minute.is_some())
    .bind(change.rate_limit_per_minute.flatten().map(u32::cast_signed))
    .fetch_optional(conn)
    .await
}

/// Sets the tombstone: its keys are invalid, nothing more is sent, and the slices start to delete its rows. Idempotent.
/// `false`: there is no such organization.
pub(crate) async fn erase(conn: &mut PgConnection, id: OrgId) -> Result<bool, sqlx::Error> {
    let found: Option<bool> = sqlx::query_scalar(
        "WITH marked AS (
             UPDATE organizations SET status = 'erasing', webhook_url = NULL WHERE id = $1 AND status = 'active')
         SELECT true FROM organizations WHERE id = $1",
    )
    .bind(id.as_uuid())
    .fetch_optional(conn)
    .await?;
    Ok(found.is_some())
}

/// The oldest active organization of that name.
pub(crate) async fn find_by_name(conn: &mut PgConnection, name: &str) -> Result<Option<OrgId>, sqlx::Error> {
    let id: Option<Uuid> = sqlx::query_scalar(
        "SELECT id FROM organizations WHERE name = $1 AND status = 'active' ORDER BY created_at, id LIMIT 1",
    )
    .bind(name)
    .fetch_optional(conn)
    .await?;
    Ok(id.map(OrgId::from_uuid))
}

/// A page of organizations after the id `after`, in the order of ids, which is the order of creation.
pub(crate) async fn list(pool: &PgPool, after: Option<OrgId>, limit: i64) -> Result<Vec<Organization>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, name, tier, rate_limit_per_minute, webhook_url, status, created_at FROM organizations
         WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2",
    )
    .bind(after.map(|id| id.as_uuid()))
    .bind(limit)
    .fetch_all(pool)
    .await
}
