//! Effects and events that missed each other: an effect was told to wait by one transaction while another one, which
//! could not see it yet, wrote its event. Only possible where the two lie in different partitions and so have different
//! writers; a producer with another partitioner is enough for that.
//!
//! No fence is needed here: nothing is read from the log, no position moves, and what is written follows from committed
//! rows alone, whoever does it. Nor does a flush at the same time disturb: an effect is deleted by one of the two and
//! applied by that one; an acknowledgement is only set where there is none; and a status is summed up under the lock of
//! its event. A second time does nothing.

use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::acks;
use crate::projector::generation::Generation;

/// An organization, and an id that an effect names.
pub(crate) type Named = (Uuid, Uuid);

/// Looks at up to 1000 effects that wait, in the order of their names, from behind `after`, and applies those whose
/// event is there, by its own id or by that of a duplicate. Answers where to go on; `None` at the end.
pub(crate) async fn apply(pool: &PgPool, generation: Generation, after: Named) -> Result<Option<Named>, sqlx::Error> {
    let mut transaction = pool.begin_with(generation.begin()).await?;
    // All effects of one name are applied at once, so a name that is cut off by the limit needs no second look.
    let looked_at: Vec<(Uuid, Uuid, bool)> = sqlx::query_as(
        "SELECT p.org_id, p.event_id, e.event_id IS NOT NULL
         FROM (SELECT org_id, event_id FROM pending_effects WHERE (org_id, event_id) > ($1, $2)
               ORDER BY org_id, event_id LIMIT 1000) p
         LEFT JOIN verdicts v USING (org_id, event_id)
         LEFT JOIN events e ON e.org_id = p.org_id AND e.event_id = COALESCE(v.original_id, p.event_id)
         ORDER BY p.org_id, p.event_id",
    )
    .bind(after.0)
    .bind(after.1)
    .fetch_all(&mut *transaction)
    .await?;
    let mut found: Vec<Named> =
        looked_at.iter().filter(|(.., is_there)| *is_there).map(|(org, id, _)| (*org, *id)).collect();
    found.dedup();
    if !found.is_empty() {
        let (orgs, ids): (Vec<Uuid>, Vec<Uuid>) = found.into_iter().unzip();
        acks::apply_waiting(&mut transaction, &orgs, &ids).await?;
    }
    transaction.commit().await?;
    Ok(looked_at.last().map(|(org, id, _)| (*org, *id)))
}
