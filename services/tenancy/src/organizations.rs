//! The table of organizations.

use schemas::ids::OrgId;
use serde_json::{Value, json};
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
    /// That of the default endpoint, while the organization is active.
    pub webhook_url: Option<String>,
    /// active, erasing or erased.
    pub status: String,
    pub created_at: OffsetDateTime,
}

impl Organization {
    /// What an audit entry shows of it.
    pub(crate) fn audit_detail(&self) -> Value {
        json!({
            "name": self.name, "tier": self.tier, "rate_limit_per_minute": self.rate_limit_per_minute,
            "webhook_url": self.webhook_url,
        })
    }
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
) -> Result<Organization, sqlx::Error> {
    sqlx::query_as(
        "INSERT INTO organizations (id, name, tier, rate_limit_per_minute) VALUES ($1, $2, $3, $4)
         RETURNING id, name, tier, rate_limit_per_minute, status, created_at, NULL::text AS webhook_url",
    )
    .bind(OrgId::generate().as_uuid())
    .bind(name)
    .bind(tier.name())
    .bind(rate_limit_per_minute.map(u32::cast_signed))
    .fetch_one(conn)
    .await
}

/// Finds an organization in any status.
pub(crate) async fn find(pool: &PgPool, id: OrgId) -> Result<Option<Organization>, sqlx::Error> {
    sqlx::query_as(
        "SELECT o.id, o.name, o.tier, o.rate_limit_per_minute, o.status, o.created_at, d.url AS webhook_url
         FROM organizations o LEFT JOIN contract.default_endpoints d ON d.org_id = o.id AND o.status = 'active'
         WHERE o.id = $1",
    )
    .bind(id.as_uuid())
    .fetch_optional(pool)
    .await
}

/// The name of an active organization. Its row is locked against other changes until the transaction ends.
pub(crate) async fn lock_name(conn: &mut PgConnection, id: OrgId) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT name FROM organizations WHERE id = $1 AND status = 'active' FOR SHARE")
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
}

/// Changes an active organization. Its trigger invalidates the cached keys of the organization on every instance.
pub(crate) async fn update(
    conn: &mut PgConnection,
    id: OrgId,
    change: &OrganizationChange,
) -> Result<Option<Organization>, sqlx::Error> {
    sqlx::query_as(
        "UPDATE organizations
         SET name = COALESCE($2, name), tier = COALESCE($3, tier),
             rate_limit_per_minute = CASE WHEN $4 THEN $5 ELSE rate_limit_per_minute END
         WHERE id = $1 AND status = 'active'
         RETURNING id, name, tier, rate_limit_per_minute, status, created_at,
                   (SELECT url FROM contract.default_endpoints WHERE org_id = $1) AS webhook_url",
    )
    .bind(id.as_uuid())
    .bind(change.name.as_deref())
    .bind(change.tier.map(Tier::name))
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
             UPDATE organizations SET status = 'erasing' WHERE id = $1 AND status = 'active')
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
        "SELECT o.id, o.name, o.tier, o.rate_limit_per_minute, o.status, o.created_at, d.url AS webhook_url
         FROM organizations o LEFT JOIN contract.default_endpoints d ON d.org_id = o.id AND o.status = 'active'
         WHERE $1::uuid IS NULL OR o.id > $1 ORDER BY o.id LIMIT $2",
    )
    .bind(after.map(|id| id.as_uuid()))
    .bind(limit)
    .fetch_all(pool)
    .await
}
