//! Erases the endpoints and delivery rows of organizations that are being erased. That nothing more is sent does not
//! depend on this: `EndpointCache::current` sees the tombstone before every attempt.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use schemas::ids::OrgId;
use sqlx::postgres::{PgConnection, PgPool};
use tenancy::erasure::{Erasure, ErasureError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::acks;
use crate::endpoints::store;
use crate::retry::schedule;
use crate::system_events;

/// How often the open erasures are read, and the shortest pause between two erasing rounds of one organization.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Erases until `shutdown`. Every instance may run this: rows that one has deleted are gone for the others.
pub(crate) async fn run(pool: PgPool, erasure: Erasure, shutdown: CancellationToken) {
    let polling = async {
        let mut pauses = Pauses::default();
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            if let Err(error) = erase_open(&pool, &erasure, &mut pauses).await {
                debug!(%error, "Erasure interrupted; continuing with the next poll.");
            }
        }
    };
    shutdown.run_until_cancelled(polling).await;
}

async fn erase_open(pool: &PgPool, erasure: &Erasure, pauses: &mut Pauses) -> Result<(), ErasureError> {
    let open = erasure.open().await?;
    for org_id in pauses.due(&open, Instant::now()) {
        let mut connection = pool.acquire().await?;
        // A batch that is cancelled may leave a transaction open, see `runtime::postgres::begin`.
        connection.close_on_drop();
        let mut found_rows = false;
        while erase_batch(&mut connection, org_id).await? > 0 {
            found_rows = true;
        }
        drop(connection);
        finish(pool, erasure, org_id).await?;
        pauses.erased(org_id, found_rows, Instant::now());
    }
    Ok(())
}

async fn finish(pool: &PgPool, erasure: &Erasure, org_id: OrgId) -> Result<(), ErasureError> {
    let mut transaction = runtime::postgres::begin(pool).await?;
    // In this order: once the positions have reached the end, no row is added; then the last rows are deleted.
    if erasure.is_passed(&mut transaction, org_id).await? && erase_batch(&mut transaction, org_id).await? == 0 {
        erasure.done(&mut transaction, org_id).await?;
        transaction.commit().await?;
        info!(organization = %org_id, "Organization erased from the dispatcher.");
    }
    Ok(())
}

/// Erases at most a batch of each table. Returns how many rows.
async fn erase_batch(connection: &mut PgConnection, org_id: OrgId) -> Result<u64, sqlx::Error> {
    let rows = store::erase(connection, org_id).await? + schedule::erase(connection, org_id).await?;
    Ok(rows + system_events::erase(connection, org_id).await? + acks::erase(connection, org_id).await?)
}

/// Pauses between two erasing rounds of one organization. They grow while there is nothing to erase: positions may not
/// reach the end of the log for a long time, because delivery is disabled or an instance is down. Pure.
#[derive(Default)]
struct Pauses {
    /// By organization: when rows were last erased, or else when it was first seen, and when the next round is due.
    by_org: HashMap<OrgId, (Instant, Instant)>,
}

impl Pauses {
    /// The open organizations that are due. Organizations that are not open any more are removed.
    fn due(&mut self, open: &[OrgId], now: Instant) -> Vec<OrgId> {
        self.by_org =
            open.iter().map(|org_id| (*org_id, self.by_org.get(org_id).copied().unwrap_or((now, now)))).collect();
        open.iter().filter(|org_id| self.by_org.get(org_id).is_some_and(|(_, due)| *due <= now)).copied().collect()
    }

    fn erased(&mut self, org_id: OrgId, found_rows: bool, now: Instant) {
        let last = self.by_org.get(&org_id).map_or(now, |(last, _)| if found_rows { now } else { *last });
        // A quarter of the time since then: it delays an erasure of a few seconds very little.
        let pause = (now.saturating_duration_since(last) / 4).clamp(POLL_INTERVAL, MAX_PAUSE);
        self.by_org.insert(org_id, (last, now + pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_only_for_an_organization_without_rows() {
        let started = Instant::now();
        let at = |second| started + Duration::from_secs(second);
        let (stuck, busy) = (OrgId::generate(), OrgId::generate());
        let mut pauses = Pauses::default();
        let mut passes = Vec::new();
        for second in 0..600 {
            let due = pauses.due(&[stuck, busy], at(second));
            assert!(due.contains(&busy), "an organization with rows is due every second");
            pauses.erased(busy, true, at(second));
            if due.contains(&stuck) {
                pauses.erased(stuck, false, at(second));
                passes.push(second);
            }
        }
        assert_eq!(passes[..8], [0, 1, 2, 3, 4, 5, 7, 9]);
        assert!(passes.windows(2).all(|pair| pair[1] - pair[0] <= 30) && passes.len() < 40, "{passes:?}");

        pauses.erased(stuck, true, at(600));
        let due = (pauses.due(&[stuck], at(600)), pauses.due(&[stuck], at(601)));
        assert_eq!(due, (vec![], vec![stuck]), "the pause is short again after rows were found");
        assert_eq!(pauses.due(&[], at(602)), []);
        assert!(pauses.by_org.is_empty(), "an organization that is erased is removed");
    }
}
