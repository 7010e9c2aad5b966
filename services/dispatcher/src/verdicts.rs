//! Whether events that may be duplicates are: waits until the view has passed them and reads what it decided. What
//! stays open too long is spilled by `intake` and decided in bulk by the retries.

use std::time::Duration;

use platform::fence::PositionsPoller;
use sqlx::postgres::PgPool;
use tracing::warn;
use uuid::Uuid;

use crate::intake::Undecided;

/// Name under which the materializer keeps its positions.
pub(crate) use schemas::topics::MATERIALIZER;

/// A decision: the ticket, and whether its event is delivered.
pub(crate) type Decision = (u64, bool);

/// Decides on events of one partition, the last of which lies at `last_offset`; nothing at all when the view has not
/// passed it within `deadline`.
pub(crate) async fn decide(
    pool: &PgPool,
    view: &PositionsPoller,
    topic: &str,
    (partition, last_offset): (i32, i64),
    undecided: &[Undecided],
    deadline: Duration,
) -> Vec<Decision> {
    // All of one reading are of one log.
    let Some(log_epoch) = undecided.first().map(|one| one.event.log_epoch) else { return Vec::new() };
    if !view.reached_in(log_epoch, topic, partition, last_offset + 1, deadline).await {
        return Vec::new();
    }
    match shown(pool, undecided).await {
        Ok(shown) => undecided.iter().map(|one| (one.ticket, shown.contains(&one.ticket))).collect(),
        Err(error) => {
            warn!(%error, "Verdicts could not be read; the deliveries go to the schedule.");
            Vec::new()
        }
    }
}

/// Those that the view shows and that no verdict stands against. Passed and not shown means erased or a dead letter;
/// shown from another place, that this record was written again and the other one is sent. The log epoch is not
/// compared: each consumer counts its own.
async fn shown(pool: &PgPool, undecided: &[Undecided]) -> Result<Vec<u64>, sqlx::Error> {
    // Places in the list rather than tickets: those are unsigned, and the database has no such numbers.
    let places: Vec<(i64,)> = sqlx::query_as(
        "SELECT t.place
         FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[]) WITH ORDINALITY
              AS t (org_id, event_id, log_partition, log_offset, place)
         WHERE EXISTS (SELECT FROM contract.events e WHERE e.org_id = t.org_id AND e.event_id = t.event_id
                       AND e.log_partition = t.log_partition AND e.log_offset = t.log_offset)
               AND NOT EXISTS (SELECT FROM contract.duplicates v
                               WHERE v.org_id = t.org_id AND v.event_id = t.event_id)",
    )
    .bind(undecided.iter().map(|one| one.event.org_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(undecided.iter().map(|one| one.event.event_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(undecided.iter().map(|one| one.event.partition).collect::<Vec<i32>>())
    .bind(undecided.iter().map(|one| one.event.offset).collect::<Vec<i64>>())
    .fetch_all(pool)
    .await?;
    let ticket = |(place,): (i64,)| undecided.get(usize::try_from(place - 1).ok()?).map(|one| one.ticket);
    Ok(places.into_iter().filter_map(ticket).collect())
}
