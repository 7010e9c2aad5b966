//! Which organizations there are, as far as records ask: active ones are remembered for seconds, all others are asked
//! for each time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use schemas::ids::OrgId;
use sqlx::postgres::PgPool;
use uuid::Uuid;

/// Known ones that are remembered; beyond it the memory begins anew.
const REMEMBERED: usize = 100_000;
/// How long an organization that is erased may be taken for an active one; `platform::erasure` waits longer.
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

/// Asks `contract.organizations`, and remembers the active ones for [`FRESH`].
#[derive(Debug, Default)]
pub(crate) struct Organizations {
    /// When each of them was asked for.
    active: Mutex<HashMap<OrgId, Instant>>,
}

impl Organizations {
    /// How each of `wanted` stands.
    pub(crate) async fn standings(
        &self,
        pool: &PgPool,
        wanted: BTreeSet<OrgId>,
    ) -> Result<BTreeMap<OrgId, Standing>, sqlx::Error> {
        let mut standings = BTreeMap::new();
        {
            let active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
            let is_fresh = |org: &&OrgId| active.get(org).is_some_and(|asked| asked.elapsed() < FRESH);
            standings.extend(wanted.iter().filter(is_fresh).map(|org| (*org, Standing::Active)));
        }
        let missing: Vec<Uuid> = wanted.iter().filter(|org| !standings.contains_key(org)).map(OrgId::as_uuid).collect();
        if missing.is_empty() {
            return Ok(standings);
        }
        // Before the question: an answer is never older than it is taken for.
        let asked = Instant::now();
        let rows: Vec<(Uuid, String)> =
            sqlx::query_as("SELECT id, status FROM contract.organizations WHERE id = ANY($1)")
                .bind(&missing)
                .fetch_all(pool)
                .await?;
        standings.extend(missing.into_iter().map(|id| (OrgId::from_uuid(id), Standing::Unknown)));
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, status) in rows {
            let org = OrgId::from_uuid(id);
            if status == "active" {
                if active.len() >= REMEMBERED {
                    active.clear();
                }
                active.insert(org, asked);
                standings.insert(org, Standing::Active);
            } else {
                standings.insert(org, Standing::Erased);
            }
        }
        Ok(standings)
    }
}
