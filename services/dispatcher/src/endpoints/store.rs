//! Endpoints in the database. Every change raises `endpoints_version` in its transaction, so that every dispatcher
//! reads it before the next record. The caller begins and commits the transaction, and seals secrets and headers.

use schemas::ids::{EndpointId, OrgId};
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::types::Json;
use sqlx::{Connection, FromRow, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::changes;
use super::credentials::{self, StoredCredentials};
use crate::retry::schedule;

/// Endpoints per organization.
pub(crate) const MAX_ENDPOINTS: i64 = 100;
/// Endpoints that one statement erases at most.
const ERASE_ROWS: i64 = 1000;

#[derive(Clone)]
pub(crate) struct StoredEndpoint {
    pub id: EndpointId,
    pub org_id: OrgId,
    pub url: String,
    pub event_types: Vec<String>,
    /// As the client wrote it.
    pub filter: Option<Value>,
    pub description: Option<String>,
    pub sealed_headers: Option<Vec<u8>>,
    /// Its deliveries have lanes.
    pub ordered: bool,
    /// Events that all matched endpoints have accepted are acknowledged.
    pub ack_on_success: bool,
    /// `None`: the endpoint is deleted.
    pub sealed_secret: Option<Vec<u8>>,
    /// The secret before the last rotation, and until when it signs.
    pub sealed_previous_secret: Option<Vec<u8>>,
    pub previous_expires_at: Option<OffsetDateTime>,
    pub credentials: StoredCredentials,
    /// `None`: the dispatcher's default.
    pub max_in_flight: Option<i32>,
    /// `None`: no limit.
    pub rate_limit_per_second: Option<i32>,
    pub timeout_seconds: i32,
    /// Delays before the retries, seconds.
    pub retry_schedule: Vec<i32>,
    pub enabled: bool,
    /// `requested`, `gone` or `failing` while the endpoint is disabled.
    pub disabled_reason: Option<String>,
    pub disabled_at: Option<OffsetDateTime>,
    /// The endpoint of `/webhook/config`.
    pub is_default: bool,
    /// Settings of batched delivery; `None`: each request has one event.
    pub batch: Option<Value>,
    /// Of its last change.
    pub version: i64,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    pub deleted_at: Option<OffsetDateTime>,
}

impl FromRow<'_, PgRow> for StoredEndpoint {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: EndpointId::from_uuid(row.try_get("id")?),
            org_id: OrgId::from_uuid(row.try_get("org_id")?),
            url: row.try_get("url")?,
            event_types: row.try_get("event_types")?,
            filter: row.try_get::<Option<Json<Value>>, _>("filter")?.map(|Json(filter)| filter),
            description: row.try_get("description")?,
            sealed_headers: row.try_get("sealed_headers")?,
            ordered: row.try_get("ordered")?,
            ack_on_success: row.try_get("ack_on_success")?,
            sealed_secret: row.try_get("sealed_secret")?,
            sealed_previous_secret: row.try_get("sealed_previous_secret")?,
            previous_expires_at: row.try_get("previous_expires_at")?,
            credentials: StoredCredentials::from_row(row)?,
            max_in_flight: row.try_get("max_in_flight")?,
            rate_limit_per_second: row.try_get("rate_limit_per_second")?,
            timeout_seconds: row.try_get("timeout_seconds")?,
            retry_schedule: row.try_get("retry_schedule")?,
            enabled: row.try_get("enabled")?,
            disabled_reason: row.try_get("disabled_reason")?,
            disabled_at: row.try_get("disabled_at")?,
            is_default: row.try_get("is_default")?,
            batch: row.try_get::<Option<Json<Value>>, _>("batch")?.map(|Json(batch)| batch),
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            deleted_at: row.try_get("deleted_at")?,
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    #[error("an organization can have at most {MAX_ENDPOINTS} endpoints")]
    TooMany,
    /// The organization is being erased; a cached API key can still reach the route.
    #[error("the organization is being erased")]
    Erased,
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
}

/// The version of the changes of one transaction.
#[derive(Clone, Copy)]
pub(crate) struct NewVersion(i64);

/// Raises the version. Later changes wait until this transaction ends, so it comes before all other statements.
pub(crate) async fn raise_version(connection: &mut PgConnection) -> Result<NewVersion, sqlx::Error> {
    let (version,): (i64,) = sqlx::query_as("UPDATE endpoints_version SET version = version + 1 RETURNING version")
        .fetch_one(connection)
        .await?;
    Ok(NewVersion(version))
}

/// Whether the organization is being erased. Until the transaction ends, it is not: with this lock, either the erasure
/// finds the rows of the transaction, or the transaction sees the tombstone.
pub(crate) async fn is_erased(conn: &mut PgConnection, org_id: OrgId) -> Result<bool, sqlx::Error> {
    let status: Option<String> =
        sqlx::query_scalar("SELECT status FROM contract.organizations WHERE id = $1 FOR SHARE")
            .bind(org_id.as_uuid())
            .fetch_optional(conn)
            .await?;
    Ok(status.is_some_and(|status| status != "active"))
}

/// Creates an endpoint and returns its row.
pub(crate) async fn create(
    conn: &mut PgConnection,
    NewVersion(version): NewVersion,
    new: &StoredEndpoint,
) -> Result<StoredEndpoint, CreateError> {
    if is_erased(conn, new.org_id).await? {
        return Err(CreateError::Erased);
    }
    // `raise_version` serializes changes, so the count is valid until the commit.
    let (count,): (i64,) = sqlx::query_as("SELECT count(*) FROM endpoints WHERE org_id = $1 AND deleted_at IS NULL")
        .bind(new.org_id.as_uuid())
        .fetch_one(&mut *conn)
        .await?;
    if count >= MAX_ENDPOINTS {
        return Err(CreateError::TooMany);
    }
    let mut stored: StoredEndpoint = sqlx::query_as(
        "INSERT INTO endpoints (id, org_id, url, event_types, description, sealed_headers, sealed_secret, max_in_flight,
                                timeout_seconds, retry_schedule, enabled, disabled_reason, is_default, version, filter,
                                 rate_limit_per_second, disabled_at, ordered, ack_on_success, batch)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15::json, $16, $17, $18, $19, $20::json)
         RETURNING *",
    )
    .bind(new.id.as_uuid())
    .bind(new.org_id.as_uuid())
    .bind(&new.url)
    .bind(&new.event_types)
    .bind(&new.description)
    .bind(&new.sealed_headers)
    .bind(&new.sealed_secret)
    .bind(new.max_in_flight)
    .bind(new.timeout_seconds)
    .bind(&new.retry_schedule)
    .bind(new.enabled)
    .bind(&new.disabled_reason)
    .bind(new.is_default)
    .bind(version)
    .bind(new.filter.as_ref().map(Value::to_string))
    .bind(new.rate_limit_per_second)
    .bind(new.disabled_at)
    .bind(new.ordered)
    .bind(new.ack_on_success)
    .bind(new.batch.as_ref().map(Value::to_string))
    .fetch_one(&mut *conn)
    .await?;
    if new.credentials != stored.credentials {
        credentials::write(conn, new.id, &new.credentials).await?;
        stored.credentials = new.credentials.clone();
    }
    Ok(stored)
}

/// The organization's endpoints, oldest first.
pub(crate) async fn list(pool: &PgPool, org_id: OrgId) -> Result<Vec<StoredEndpoint>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM endpoints WHERE org_id = $1 AND deleted_at IS NULL ORDER BY created_at, id LIMIT $2")
        .bind(org_id.as_uuid())
        .bind(MAX_ENDPOINTS)
        .fetch_all(pool)
        .await
}

pub(crate) async fn get(pool: &PgPool, org_id: OrgId, id: EndpointId) -> Result<Option<StoredEndpoint>, sqlx::Error> {
    sqlx::query_as("SELECT * FROM endpoints WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL")
        .bind(org_id.as_uuid())
        .bind(id.as_uuid())
        .fetch_optional(pool)
        .await
}

/// Whether an organization has an endpoint that is not deleted.
pub(crate) async fn exists(conn: &mut PgConnection, org_id: OrgId, id: EndpointId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM endpoints WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL)")
        .bind(org_id.as_uuid())
        .bind(id.as_uuid())
        .fetch_one(conn)
        .await
}

/// The id of the organization's default endpoint. Valid until the commit: `_version` serializes changes.
pub(crate) async fn default_of(
    conn: &mut PgConnection,
    _version: NewVersion,
    org_id: OrgId,
) -> Result<Option<EndpointId>, sqlx::Error> {
    let id: Option<Uuid> =
        sqlx::query_scalar("SELECT id FROM endpoints WHERE org_id = $1 AND is_default AND deleted_at IS NULL")
            .bind(org_id.as_uuid())
            .fetch_optional(conn)
            .await?;
    Ok(id.map(EndpointId::from_uuid))
}

/// Changes an endpoint: `change` modifies the locked row. Enabling an endpoint releases its queue. `None`:
/// the organization has no such endpoint.
pub(crate) async fn update(
    conn: &mut PgConnection,
    NewVersion(version): NewVersion,
    org_id: OrgId,
    id: EndpointId,
    change: impl FnOnce(&mut StoredEndpoint) + Send,
) -> Result<Option<StoredEndpoint>, sqlx::Error> {
    let found: Option<StoredEndpoint> =
        sqlx::query_as("SELECT * FROM endpoints WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL FOR UPDATE")
            .bind(org_id.as_uuid())
            .bind(id.as_uuid())
            .fetch_optional(&mut *conn)
            .await?;
    let Some(mut endpoint) = found else { return Ok(None) };
    let credentials = endpoint.credentials.clone();
    let was_enabled = endpoint.enabled;
    change(&mut endpoint);
    if endpoint.credentials != credentials {
        credentials::write(&mut *conn, id, &endpoint.credentials).await?;
    }
    let stored = sqlx::query_as(
        "UPDATE endpoints
         SET url = $2, event_types = $3, description = $4, sealed_headers = $5, max_in_flight = $6,
             timeout_seconds = $7, retry_schedule = $8, enabled = $9, disabled_reason = $10, version = $11,
             filter = $12::json, sealed_secret = $13, sealed_previous_secret = $14, previous_expires_at = $15,
             rate_limit_per_second = $16, disabled_at = $17, ordered = $18, ack_on_success = $19, batch = $20::json,
             updated_at = now()
         WHERE id = $1 RETURNING *",
    )
    .bind(id.as_uuid())
    .bind(&endpoint.url)
    .bind(&endpoint.event_types)
    .bind(&endpoint.description)
    .bind(&endpoint.sealed_headers)
    .bind(endpoint.max_in_flight)
    .bind(endpoint.timeout_seconds)
    .bind(&endpoint.retry_schedule)
    .bind(endpoint.enabled)
    .bind(&endpoint.disabled_reason)
    .bind(version)
    .bind(endpoint.filter.as_ref().map(Value::to_string))
    .bind(&endpoint.sealed_secret)
    .bind(&endpoint.sealed_previous_secret)
    .bind(endpoint.previous_expires_at)
    .bind(endpoint.rate_limit_per_second)
    .bind(endpoint.disabled_at)
    .bind(endpoint.ordered)
    .bind(endpoint.ack_on_success)
    .bind(endpoint.batch.as_ref().map(Value::to_string))
    .fetch_one(&mut *conn)
    .await?;
    if endpoint.enabled && !was_enabled {
        forget_failures(conn, id).await?;
    }
    if endpoint.enabled {
        schedule::release(conn, id).await?;
    }
    Ok(Some(stored))
}

/// Deletes an endpoint and its secrets. Its queue becomes due, so that the retry worker cancels and reports its
/// deliveries; a row under a lease gets the outcome of its attempt. Returns the row; `None`: the organization has no
/// such endpoint.
pub(crate) async fn delete(
    conn: &mut PgConnection,
    NewVersion(version): NewVersion,
    org_id: OrgId,
    id: EndpointId,
) -> Result<Option<StoredEndpoint>, sqlx::Error> {
    let deleted: Option<StoredEndpoint> = sqlx::query_as(
        "UPDATE endpoints
         SET deleted_at = now(), updated_at = now(), version = $3, sealed_secret = NULL, sealed_headers = NULL,
             sealed_previous_secret = NULL, previous_expires_at = NULL, description = NULL,
             auth = NULL, sealed_auth = NULL, compat_signature = NULL, sealed_compat_signature = NULL
         WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL RETURNING *",
    )
    .bind(org_id.as_uuid())
    .bind(id.as_uuid())
    .bind(version)
    .fetch_optional(&mut *conn)
    .await?;
    if deleted.is_none() {
        return Ok(None);
    }
    schedule::make_due(conn, id).await?;
    Ok(deleted)
}

/// Disables an endpoint for a reason of the system, unless it is disabled or deleted already. Returns the changed row.
pub(crate) async fn disable(
    conn: &mut PgConnection,
    NewVersion(version): NewVersion,
    id: EndpointId,
    reason: &'static str,
) -> Result<Option<StoredEndpoint>, sqlx::Error> {
    sqlx::query_as(
        "UPDATE endpoints
         SET enabled = false, disabled_reason = $3, disabled_at = now(), updated_at = now(), version = $2
         WHERE id = $1 AND enabled AND deleted_at IS NULL RETURNING *",
    )
    .bind(id.as_uuid())
    .bind(version)
    .bind(reason)
    .fetch_optional(conn)
    .await
}

/// Forgets the failures of an endpoint that is enabled: only later ones count.
async fn forget_failures(conn: &mut PgConnection, id: EndpointId) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE endpoint_conditions SET failing_since = NULL, last_failed_at = NULL WHERE endpoint_id = $1")
        .bind(id.as_uuid())
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes endpoints of an organization that is being erased, at most a batch, and empties their rows, also those of
/// deleted endpoints. The rows stay until they are purged, and dispatchers read those that were not deleted before.
/// Returns how many were emptied.
pub(crate) async fn erase(connection: &mut PgConnection, org_id: OrgId) -> Result<u64, sqlx::Error> {
    // Checked first: raising the version makes every dispatcher read changes.
    let is_left: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM endpoints WHERE org_id = $1 AND url <> '')")
        .bind(org_id.as_uuid())
        .fetch_one(&mut *connection)
        .await?;
    if !is_left {
        return changes::erase(connection, org_id).await.map(|()| 0);
    }
    let mut transaction = connection.begin().await?;
    let NewVersion(version) = raise_version(&mut transaction).await?;
    let erased = sqlx::query(
        "UPDATE endpoints
         SET deleted_at = COALESCE(deleted_at, now()), updated_at = now(),
             version = CASE WHEN deleted_at IS NULL THEN $2 ELSE version END,
             url = '', event_types = '{}', filter = NULL, description = NULL, sealed_headers = NULL,
             sealed_secret = NULL, sealed_previous_secret = NULL, previous_expires_at = NULL,
             auth = NULL, sealed_auth = NULL, compat_signature = NULL, sealed_compat_signature = NULL
         WHERE id IN (SELECT id FROM endpoints WHERE org_id = $1 AND url <> '' LIMIT $3)",
    )
    .bind(org_id.as_uuid())
    .bind(version)
    .bind(ERASE_ROWS)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(erased.rows_affected())
}

/// Decides whether a cached snapshot is current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    /// Every change of an endpoint raises it.
    pub version: i64,
    /// The highest version of a purged row: a snapshot that is older misses deletions.
    pub purged_version: i64,
    /// Organizations that are being erased and whose endpoints are not deleted yet, sorted.
    pub erasing: Vec<OrgId>,
}

/// Read before every attempt, so it is one statement. The list is usually empty: endpoints are deleted about a second
/// after the tombstone.
pub(crate) async fn version(pool: &PgPool) -> Result<Version, sqlx::Error> {
    let (version, purged_version, erasing): (i64, i64, Vec<Uuid>) = sqlx::query_as(
        "SELECT version, purged_version,
                ARRAY(SELECT o.id FROM contract.organizations o
                      WHERE o.status = 'erasing'
                            AND EXISTS (SELECT FROM endpoints e WHERE e.org_id = o.id AND e.deleted_at IS NULL)
                      ORDER BY o.id)
         FROM endpoints_version",
    )
    .fetch_one(pool)
    .await?;
    Ok(Version { version, purged_version, erasing: erasing.into_iter().map(OrgId::from_uuid).collect() })
}
