//! The status of organizations, as far as records need it. Active ones are cached for seconds; all others are read each
//! time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use schemas::ids::OrgId;
use sqlx::postgres::PgPool;
use uuid::Uuid;

/// Organizations cached at most.
const MAX_CACHED: u64 = 100_000;
/// How long an organization that is erased may be taken for an active one; `tenancy::erasure` waits longer.
const FRESH: Duration = Duration::from_secs(2);

/// How an organization stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its records are taken.
    Active,
    /// Its records are passed over.
    Erased,
    /// Its events are dead letters.
    Unknown,
}

/// Reads `contract.organizations`, and caches the active ones for [`FRESH`].
#[derive(Debug)]
pub(crate) struct Organizations {
    /// Active ones, and when PostgreSQL was asked about each.
    active: Cache<OrgId, Instant>,
}

impl Default for Organizations {
    fn default() -> Self {
        Self { active: Cache::builder().max_capacity(MAX_CACHED).time_to_live(FRESH).build() }
    }
}

impl Organizations {
    /// How each of `wanted` stands.
    pub(crate) async fn standings(
        &self,
        pool: &PgPool,
        wanted: BTreeSet<OrgId>,
    ) -> Result<BTreeMap<OrgId, Standing>, sqlx::Error> {
        // The cache counts from when the answer came; what counts is when the question was asked.
        let is_active = |org: &OrgId| self.active.get(org).is_some_and(|asked| asked.elapsed() < FRESH);
        let mut standings: BTreeMap<OrgId, Standing> =
            wanted.iter().filter(|org| is_active(org)).map(|org| (*org, Standing::Active)).collect();
        let missing: Vec<Uuid> = wanted.iter().filter(|org| !standings.contains_key(org)).map(OrgId::as_uuid).collect();
        if missing.is_empty() {
            return Ok(standings);
        }
        let asked = Instant::now();
        let rows: Vec<(Uuid, String)> =
            sqlx::query_as("SELECT id, status FROM contract.organizations WHERE id = ANY($1)")
                .bind(&missing)
                .fetch_all(pool)
                .await?;
        standings.extend(missing.into_iter().map(|id| (OrgId::from_uuid(id), Standing::Unknown)));
        for (id, status) in rows {
            let org = OrgId::from_uuid(id);
            let is_active = status == "active";
            if is_active {
                self.active.insert(org, asked);
            }
            standings.insert(org, if is_active { Standing::Active } else { Standing::Erased });
        }
        Ok(standings)
    }
}
