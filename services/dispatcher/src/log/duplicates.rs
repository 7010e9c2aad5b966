//! Duplicate decisions for first attempts: waits until the view has applied the events, then reads which of them are
//! originals. Deliveries without a timely decision are spilled; the retry worker releases them in bulk.

use std::time::Duration;

use kafka::fence::PositionsPoller;
use sqlx::postgres::PgPool;
use tracing::warn;
use uuid::Uuid;

use crate::log::tracker::Undecided;

/// A ticket, and whether its event is delivered.
pub(crate) type Decision = (u64, bool);

/// Reads the decisions on events of one partition and one log epoch; `last_offset` is the last of their offsets.
/// Returns none if the view has not applied that within `deadline`.
pub(crate) async fn read_decisions(
    pool: &PgPool,
    view_positions: &PositionsPoller,
    topic: &str,
    (partition, last_offset): (i32, i64),
    undecided: &[Undecided],
    deadline: Duration,
) -> Vec<Decision> {
    let Some(log_epoch) = undecided.first().map(|one| one.event.log_epoch) else { return Vec::new() };
    if !view_positions.wait_for_offset(log_epoch, topic, partition, last_offset + 1, deadline).await {
        return Vec::new();
    }
    match read_originals(pool, undecided).await {
        Ok(originals) => undecided.iter().map(|one| (one.ticket, originals.contains(&one.ticket))).collect(),
        Err(error) => {
            warn!(%error, "Duplicate decisions could not be read; spilling the deliveries to the schedule.");
            Vec::new()
        }
    }
}

/// The tickets of events that the view shows from exactly this record and that are no duplicates. An event that the
/// view does not show was erased or is a dead letter; if it is shown from another record, that one is delivered. The
/// log epoch is not compared: each consumer counts its own.
async fn read_originals(pool: &PgPool, undecided: &[Undecided]) -> Result<Vec<u64>, sqlx::Error> {
    // Indexes instead of tickets: PostgreSQL has no unsigned integers.
    let indexes: Vec<i64> = sqlx::query_scalar(
        "SELECT t.nth - 1
         FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[]) WITH ORDINALITY
              AS t (org_id, event_id, log_partition, log_offset, nth)
         WHERE EXISTS (SELECT FROM contract.events e WHERE e.org_id = t.org_id AND e.event_id = t.event_id
                       AND e.log_partition = t.log_partition AND e.log_offset = t.log_offset)
               AND NOT EXISTS (SELECT FROM contract.duplicates d
                               WHERE d.org_id = t.org_id AND d.event_id = t.event_id)",
    )
    .bind(undecided.iter().map(|one| one.event.org_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(undecided.iter().map(|one| one.event.event_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(undecided.iter().map(|one| one.event.partition).collect::<Vec<i32>>())
    .bind(undecided.iter().map(|one| one.event.offset).collect::<Vec<i64>>())
    .fetch_all(pool)
    .await?;
    let ticket = |index: i64| undecided.get(usize::try_from(index).ok()?).map(|one| one.ticket);
    Ok(indexes.into_iter().filter_map(ticket).collect())
}
