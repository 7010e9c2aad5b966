//! Applies pending effects whose event another instance wrote meanwhile: one transaction stored the effect while
//! another one, which could not see it yet, wrote the event. This happens only if the two are in different partitions
//! and so have different writers, for instance because a producer uses another partitioner.
//!
//! No fence is needed: the task reads no log, moves no position, and writes only what follows from committed rows. A
//! concurrent flush does no harm: only one of the two deletes an effect, and that one applies it; the earliest
//! acknowledgement of an event stays; and a status is computed under the lock of its event. A second run changes
//! nothing.

use std::time::Duration;

use schemas::ids::{EventId, OrgId};
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use uuid::Uuid;

use super::flush::pending_effects;
use super::generation::Generation;
use super::pause::sleep_unless_shutdown;

/// Maximum time until such an effect is applied.
const MAX_INTERVAL: Duration = Duration::from_secs(2);
/// Batches of up to 1000 effects. Acks of unknown events stay for days, in any number: a round reads some of them, and
/// the next round continues from there.
const BATCHES_PER_ROUND: usize = 10;

/// The organization and the event id of an effect.
type EffectKey = (Uuid, Uuid);

/// Before all effects.
const FIRST: EffectKey = (Uuid::nil(), Uuid::nil());

/// Runs every `interval`, or more often, until `shutdown`. Several instances may.
pub(crate) async fn run(pool: PgPool, interval: Duration, shutdown: CancellationToken) {
    let mut after = FIRST;
    while sleep_unless_shutdown(interval.min(MAX_INTERVAL), &shutdown).await {
        for _ in 0..BATCHES_PER_ROUND {
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

/// Reconciles every pending effect of a generation, once.
pub(crate) async fn all(pool: &PgPool, generation: Generation) -> Result<(), sqlx::Error> {
    let mut after = FIRST;
    while let Some(last) = apply(pool, generation, after).await? {
        after = last;
    }
    Ok(())
}

/// Reads up to 1000 pending effects after `after`, in the order of organization and event id, and applies those whose
/// event exists, under its own id or that of a duplicate. Returns where to continue; `None` at the end.
async fn apply(pool: &PgPool, generation: Generation, after: EffectKey) -> Result<Option<EffectKey>, sqlx::Error> {
    let mut transaction = runtime::postgres::begin_with(pool, generation.begin()).await?;
    // All effects of one id are applied at once, so an id that the limit cuts off needs no second read.
    let effects: Vec<(Uuid, Uuid, bool)> = sqlx::query_as(
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
    let found = effects.iter().filter(|(.., has_event)| *has_event);
    let mut found: Vec<(OrgId, EventId)> =
        found.map(|(org, id, _)| (OrgId::from_uuid(*org), EventId::from_uuid(*id))).collect();
    found.dedup();
    if !found.is_empty() {
        pending_effects::apply(&mut transaction, &found).await?;
    }
    transaction.commit().await?;
    Ok(effects.last().map(|(org, id, _)| (*org, *id)))
}
