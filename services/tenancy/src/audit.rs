//! The audit log: who changed what, when and from where. An entry is appended in the transaction of its change. The
//! table refuses every other change; its rule is in the migration.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http_server::RequestContext;
use schemas::ids::{KeyId, OrgId};
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::extract::client_address;

/// Default of the entries that an organization keeps: of its keys, and as many of all others.
pub const AUDIT_ENTRIES: u32 = 10_000;

const SWEEP_INTERVAL: std::time::Duration = std::time::Duration::from_secs(60);
/// Entries that one statement deletes at most.
const SWEEP_BATCH: u64 = 1_000;

/// Who made a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    Key(KeyId),
    Operator,
    /// A client without a key: self sign-up.
    Anonymous,
    /// The configuration of a process: development keys.
    Configuration,
    /// The system itself, such as the dispatcher that disables an endpoint.
    System,
}

impl Actor {
    const fn name(self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Operator => "operator",
            Self::Anonymous => "anonymous",
            Self::Configuration => "configuration",
            Self::System => "system",
        }
    }
}

/// Where a change came from. Extracted from the request.
#[derive(Debug, Clone)]
pub struct Origin {
    pub address: IpAddr,
    pub request_id: Arc<str>,
}

impl<S: Send + Sync> FromRequestParts<S> for Origin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let address = client_address(parts, state).await;
        let Ok(context) = RequestContext::from_request_parts(parts, state).await;
        Ok(Self { address, request_id: context.request_id })
    }
}

/// What was changed.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    pub org_id: OrgId,
    /// Such as `key.revoked`.
    pub action: &'static str,
    /// The id of the key, organization or endpoint.
    pub target: Uuid,
}

/// Appends an entry. `detail` has no secret. `origin`: of the request that made the change.
///
/// It locks the entries of the organization until the end of the transaction, so it is its last statement: who holds
/// that lock must not wait for another one.
///
/// # Errors
/// When PostgreSQL does not answer. The change must not be committed then.
pub async fn append(
    conn: &mut PgConnection,
    actor: Actor,
    origin: Option<&Origin>,
    change: Change,
    detail: &Value,
) -> Result<(), sqlx::Error> {
    let key_id = match actor {
        Actor::Key(id) => Some(id.as_uuid()),
        _ => None,
    };
    sqlx::query("SELECT audit_append($1, $2, $3, $4, $5, $6::jsonb, $7, $8)")
        .bind(change.org_id.as_uuid())
        .bind(actor.name())
        .bind(key_id)
        .bind(change.action)
        .bind(change.target)
        .bind(detail.to_string())
        .bind(origin.map(|origin| origin.address.to_string()))
        .bind(origin.map(|origin| &*origin.request_id))
        .execute(conn)
        .await?;
    Ok(())
}

/// An entry, as its organization sees it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub id: i64,
    pub at: OffsetDateTime,
    pub actor: String,
    pub key_id: Option<Uuid>,
    pub key_prefix: Option<String>,
    pub action: String,
    pub target: Uuid,
    pub detail: Value,
    pub address: Option<String>,
    pub request_id: Option<String>,
}

impl FromRow<'_, PgRow> for Entry {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let detail: &str = row.try_get("detail")?;
        Ok(Self {
            id: row.try_get("id")?,
            at: row.try_get("at")?,
            actor: row.try_get("actor")?,
            key_id: row.try_get("key_id")?,
            key_prefix: row.try_get("key_prefix")?,
            action: row.try_get("action")?,
            target: row.try_get("target")?,
            detail: serde_json::from_str(detail).map_err(|error| sqlx::Error::Decode(error.into()))?,
            address: row.try_get("address")?,
            request_id: row.try_get("request_id")?,
        })
    }
}

/// Which entries are listed.
#[derive(Debug, Default)]
pub(crate) struct Filter<'a> {
    pub action: Option<&'a str>,
    pub since: Option<OffsetDateTime>,
    pub until: Option<OffsetDateTime>,
    /// Only entries before this one. Entries of an organization are committed in the order of their ids.
    pub before: Option<i64>,
}

/// Entries of the organization, newest first.
pub(crate) async fn list(
    pool: &PgPool,
    org_id: OrgId,
    filter: &Filter<'_>,
    limit: i64,
) -> Result<Vec<Entry>, sqlx::Error> {
    sqlx::query_as(
        "SELECT id, at, actor, key_id, key_prefix, action, target, detail::text AS detail, host(address) AS address,
                request_id
         FROM audit_log
         WHERE org_id = $1 AND ($2::text IS NULL OR action = $2) AND ($3::timestamptz IS NULL OR at >= $3)
               AND ($4::timestamptz IS NULL OR at < $4) AND ($5::bigint IS NULL OR id < $5)
         ORDER BY id DESC LIMIT $6",
    )
    .bind(org_id.as_uuid())
    .bind(filter.action)
    .bind(filter.since)
    .bind(filter.until)
    .bind(filter.before)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Stores how many entries an organization keeps, and deletes old entries once a minute, until `shutdown`.
pub(crate) async fn sweep_until(pool: &PgPool, entries: u32, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(SWEEP_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_stored = false;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        let upkeep = async {
            if !is_stored {
                keep(pool, entries).await?;
                is_stored = true;
            }
            while sweep(pool).await? == SWEEP_BATCH {}
            Ok::<(), sqlx::Error>(())
        };
        if let Err(error) = upkeep.await {
            tracing::warn!(%error, "Old audit entries could not be deleted; retrying in a minute");
        }
    }
}

/// Sets how many entries an organization keeps. Of several instances, the one that started last decides.
async fn keep(pool: &PgPool, entries: u32) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE audit_settings SET entries = $1 WHERE entries <> $1")
        .bind(entries.cast_signed())
        .execute(pool)
        .await?;
    Ok(())
}

/// Deletes a batch of entries that are older than the retention. Returns how many.
async fn sweep(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query(
        "DELETE FROM audit_log WHERE id IN (
             SELECT id FROM audit_log WHERE at < now() - audit_retention() ORDER BY at LIMIT $1
             FOR UPDATE SKIP LOCKED)",
    )
    .bind(SWEEP_BATCH.cast_signed())
    .execute(pool)
    .await?;
    Ok(deleted.rows_affected())
}
