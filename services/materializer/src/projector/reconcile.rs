//! Applies pending effects that missed their event: one transaction stored the effect while another one, which could
//! not see it yet, wrote the event. Only possible where the two are in different partitions and so have different
//! writers; a producer with another partitioner is enough for that.
//!
//! No fence is needed: nothing is read from the log, no position moves, and what is written follows from committed rows
//! alone, whoever does it. Nor does a flush at the same time disturb: an effect is deleted by one of the two and
//! applied by that one; an acknowledgement is only set where there is none; and a status is computed under the lock of
//! its event. A second time changes nothing.

use std::time::Duration;

use schemas::ids::{EventId, OrgId};
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use uuid::Uuid;

use super::flush::pending_effects;
use super::generation::Generation;
use super::sweep::slept;

/// Whoever acknowledged an event sees it by then, in the rare case that the two missed each other.
const LONGEST_MISS: Duration = Duration::from_secs(2);
/// Of up to 1000 effects each. Acks of events that nobody has stay for days, in any number: a round looks at some of
/// them, the next one continues from there.
const LOOKS_PER_ROUND: usize = 10;

/// An organization, and an id that an effect names.
type Named = (Uuid, Uuid);

/// Before all names.
const FIRST: Named = (Uuid::nil(), Uuid::nil());

/// Looks every `interval`, or more often, until `shutdown`. Several instances may.
pub(crate) async fn run(pool: PgPool, interval: Duration, shutdown: CancellationToken) {
    let mut after = FIRST;
    while slept(interval.min(LONGEST_MISS), &shutdown).await {
        for _ in 0..LOOKS_PER_ROUND {
            match apply(&pool, Generation::Live, after).await {
                Ok(Some(last)) => after = last,
                Ok(None) => {
                    after = FIRST;
                    break;
                }
                Err(error) => {
                    debug!(%error, "Pending effects could not be reconciled; retrying in the next round.");
                    break;
                }
            }
        }
    }
}

/// Looks at every pending effect of a generation, once.
pub(crate) async fn all(pool: &PgPool, generation: Generation) -> Result<(), sqlx::Error> {
    let mut after = FIRST;
    while let Some(last) = apply(pool, generation, after).await? {
        after = last;
    }
    Ok(())
}

/// Looks at up to 1000 pending effects, in the order of their names, from behind `after`, and applies those whose event
/// is there, by its own id or by that of a duplicate. Returns where to continue; `None` at the end.
async fn apply(pool: &PgPool, generation: Generation, after: Named) -> Result<Option<Named>, sqlx::Error> {
    let mut transaction = pool.begin_with(generation.begin()).await?;
    // All effects of one name are applied at once, so a name that is cut off by the limit needs no second look.
    let looked_at: Vec<(Uuid, Uuid, bool)> = sqlx::query_as(
        "SELECT p.org_id, p.event_id, e.event_id IS NOT NULL
         FROM (SELECT org_id, event_id FROM pending_effects WHERE (org_id, event_id) > ($1, $2)
               ORDER BY org_id, event_id LIMIT 1000) p
         LEFT JOIN event_ids i USING (org_id, event_id)
         LEFT JOIN events e ON e.org_id = p.org_id AND e.event_id = COALESCE(i.canonical_id, p.event_id)
         ORDER BY p.org_id, p.event_id",
    )
    .bind(after.0)
    .bind(after.1)
    .fetch_all(&mut *transaction)
    .await?;
    let found = looked_at.iter().filter(|(.., is_there)| *is_there);
    let mut found: Vec<(OrgId, EventId)> =
        found.map(|(org, id, _)| (OrgId::from_uuid(*org), EventId::from_uuid(*id))).collect();
    found.dedup();
    if !found.is_empty() {
        pending_effects::apply(&mut transaction, &found).await?;
    }
    transaction.commit().await?;
    Ok(looked_at.last().map(|(org, id, _)| (*org, *id)))
}
