//! The status of the organizations of records. Active organizations are cached for seconds; all others are read from
//! PostgreSQL each time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use schemas::ids::OrgId;
use sqlx::postgres::PgPool;
use uuid::Uuid;

/// Maximum number of cached organizations.
const MAX_CACHED: u64 = 100_000;
/// How long an erased organization may still count as active; `tenancy::erasure` waits longer.
const FRESH: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OrganizationStatus {
    /// Its records are written.
    Active,
    /// Its records are skipped.
    Erased,
    /// Its events are dead letters.
    Unknown,
}

/// Reads `contract.organizations`, and caches the active ones for [`FRESH`].
#[derive(Debug)]
pub(crate) struct OrganizationStatuses {
    /// Active organizations, and when PostgreSQL was asked about each.
    active: Cache<OrgId, Instant>,
}

impl Default for OrganizationStatuses {
    fn default() -> Self {
        Self { active: Cache::builder().max_capacity(MAX_CACHED).time_to_live(FRESH).build() }
    }
}

impl OrganizationStatuses {
    /// The status of each organization of `wanted`.
    pub(crate) async fn statuses(
        &self,
        pool: &PgPool,
        wanted: BTreeSet<OrgId>,
    ) -> Result<BTreeMap<OrgId, OrganizationStatus>, sqlx::Error> {
        // The cache counts from the insertion. The time that counts is the one before the query.
        let is_active = |org: &OrgId| self.active.get(org).is_some_and(|asked| asked.elapsed() < FRESH);
        let mut statuses: BTreeMap<OrgId, OrganizationStatus> =
            wanted.iter().filter(|org| is_active(org)).map(|org| (*org, OrganizationStatus::Active)).collect();
        let missing: Vec<Uuid> = wanted.iter().filter(|org| !statuses.contains_key(org)).map(OrgId::as_uuid).collect();
        if missing.is_empty() {
            return Ok(statuses);
        }
        let asked = Instant::now();
        let rows: Vec<(Uuid, String)> =
            sqlx::query_as("SELECT id, status FROM contract.organizations WHERE id = ANY($1)")
                .bind(&missing)
                .fetch_all(pool)
                .await?;
        statuses.extend(missing.into_iter().map(|id| (OrgId::from_uuid(id), OrganizationStatus::Unknown)));
        for (id, status) in rows {
            let org = OrgId::from_uuid(id);
            let is_active = status == "active";
            if is_active {
                self.active.insert(org, asked);
            }
            statuses.insert(org, if is_active { OrganizationStatus::Active } else { OrganizationStatus::Erased });
        }
        Ok(statuses)
    }
}
