//! Erases what the dispatcher has of organizations that are being erased: endpoints and rows of deliveries. That
//! nothing more is sent does not depend on this: `Directory::current` sees the tombstone before every attempt.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use schemas::ids::OrgId;
use sqlx::postgres::{PgConnection, PgPool};
use tenancy::erasure::{Erasure, ErasureError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::endpoints::store;
use crate::rows;

/// How often it is asked which organizations there are, and the least between two looks at one.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The most between two looks at one.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(30);

/// Looks every second until `shutdown`, and less often at an organization of which nothing goes. Every instance may:
/// what one has done is not there any more for the others.
pub(crate) async fn run(pool: PgPool, erasure: Erasure, shutdown: CancellationToken) {
    let looks = async {
        let mut idle = Idle::default();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(error) = look(&pool, &erasure, &mut idle).await {
                debug!(%error, "Erasing was cut short; it goes on with the next look.");
            }
        }
    };
    shutdown.run_until_cancelled(looks).await;
}

async fn look(pool: &PgPool, erasure: &Erasure, idle: &mut Idle) -> Result<(), ErasureError> {
    let open = erasure.open().await?;
    for org_id in idle.due(&open, Instant::now()) {
        let mut connection = pool.acquire().await?;
        let mut gone = 0;
        loop {
            let erased = erase(&mut connection, org_id).await?;
            gone += erased;
            if erased == 0 {
                break;
            }
        }
        drop(connection);
        finish(pool, erasure, org_id).await?;
        idle.looked(org_id, gone > 0, Instant::now());
    }
    Ok(())
}

async fn finish(pool: &PgPool, erasure: &Erasure, org_id: OrgId) -> Result<(), ErasureError> {
    let mut transaction = pool.begin().await?;
    // In this order: with the position there no row comes any more, and then none is left.
    if erasure.is_passed(&mut transaction, org_id).await? && erase(&mut transaction, org_id).await? == 0 {
        erasure.done(&mut transaction, org_id).await?;
        transaction.commit().await?;
        info!(organization = %org_id, "Organization erased from the dispatcher.");
    }
    Ok(())
}

/// Erases at most a batch of each table. Returns how many rows.
async fn erase(connection: &mut PgConnection, org_id: OrgId) -> Result<u64, sqlx::Error> {
    Ok(store::erase(connection, org_id).await? + rows::erase(connection, org_id).await?)
}

/// Since when nothing of an organization went: one whose positions cannot come to the end, because nothing is sent or
/// somebody is away, is looked at ever less often. Pure.
#[derive(Default)]
struct Idle {
    /// By organization: since when, and when the next look is due.
    known: HashMap<OrgId, (Instant, Instant)>,
}

impl Idle {
    /// Those of the open ones at which to look now. Others are forgotten.
    fn due(&mut self, open: &[OrgId], now: Instant) -> Vec<OrgId> {
        self.known =
            open.iter().map(|org_id| (*org_id, self.known.get(org_id).copied().unwrap_or((now, now)))).collect();
        open.iter().filter(|org_id| self.known.get(org_id).is_some_and(|(_, next)| *next <= now)).copied().collect()
    }

    fn looked(&mut self, org_id: OrgId, something_went: bool, now: Instant) {
        let since = self.known.get(&org_id).map_or(now, |(since, _)| if something_went { now } else { *since });
        // A quarter of the time since then: an erasure that ends in seconds is not held up by it.
        let pause = (now.saturating_duration_since(since) / 4).clamp(LOOK_EVERY, LOOK_AT_LEAST_EVERY);
        self.known.insert(org_id, (since, now + pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organization_of_which_nothing_goes_is_looked_at_less_often_and_the_others_are_not() {
        let begun = Instant::now();
        let at = |second| begun + Duration::from_secs(second);
        let (stuck, busy) = (OrgId::generate(), OrgId::generate());
        let mut idle = Idle::default();
        let mut looks = Vec::new();
        for second in 0..600 {
            let due = idle.due(&[stuck, busy], at(second));
            assert!(due.contains(&busy));
            idle.looked(busy, true, at(second));
            if due.contains(&stuck) {
                idle.looked(stuck, false, at(second));
                looks.push(second);
            }
        }
        assert_eq!(looks[..8], [0, 1, 2, 3, 4, 5, 7, 9]);
        assert!(looks.windows(2).all(|pair| pair[1] - pair[0] <= 30) && looks.len() < 40, "{looks:?}");

        // Something came and went: quick again.
        idle.looked(stuck, true, at(600));
        assert_eq!((idle.due(&[stuck], at(600)), idle.due(&[stuck], at(601))), (vec![], vec![stuck]));
        assert_eq!(idle.due(&[], at(602)), []);
        assert!(idle.known.is_empty());
    }
}
