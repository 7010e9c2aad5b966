//! Rows of `delivery_schedule`: written by the pass over the log, taken and settled by the retries. Only SQL lives
//! here; when a row is due and what its outcome means is decided in `schedule`, `intake` and `retries`.
//!
//! All times are the database's clock, so that instances need not agree on theirs.

mod contested;

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use schemas::ids::{DeliveryId, EndpointId, EventId, OrgId};
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::delivery::{Accepted, Delivery, Outcome, RowState};

/// Rows that one sweep deletes at most.
const SWEEP_ROWS: i64 = 1000;
/// Rows that one statement decides on at most.
const DECIDE_ROWS: i64 = 1000;
/// Counting open rows stops here: a gauge is not worth a scan.
const COUNTED_ROWS: i64 = 10_000;

/// A row to make. Where there is one already, that one stays, but for one of another place whose verdict is open or
/// went against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRow {
    /// What is delivered.
    pub delivery: Delivery,
    /// `Pending` or `AwaitingVerdict`.
    pub state: RowState,
    /// Attempts made so far.
    pub attempts: u32,
    /// When somebody may take it.
    pub due_after: Duration,
    /// Set while an attempt is under way.
    pub lease: Option<Uuid>,
}

impl NewRow {
    /// Bytes that it adds to a statement, about.
    pub fn size(&self) -> usize {
        self.delivery.event.size() + 128
    }
}

/// The outcome of an attempt that was made under a lease. It counts only while the lease is the row's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlement {
    /// Which row.
    pub delivery_id: DeliveryId,
    /// Which lease.
    pub lease: Uuid,
    /// What follows.
    pub outcome: Outcome,
}

/// A row that was taken for an attempt.
#[derive(Debug, Clone)]
pub struct Taken {
    /// What is delivered.
    pub delivery: Delivery,
    /// Attempts made before.
    pub attempts: u32,
    /// Under which lease.
    pub lease: Uuid,
    /// Whether its event is acknowledged, so that nothing need be sent again.
    pub acknowledged: bool,
}

/// Writes rows. One that waits for a verdict, or was dropped by it, gives way to the same delivery from another place;
/// where both wait, the row is contested, and is sent whichever of its places the view shows. It then stands at the
/// later place, whichever came first: it is decided when the view has passed both, and kept until the dispatcher has.
///
/// # Errors
/// As PostgreSQL has them.
pub async fn insert(connection: &mut PgConnection, rows: &[NewRow]) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let rows = contested::settle(rows);
    let event = |of: fn(&Accepted) -> Uuid| rows.iter().map(|one| of(&one.row.delivery.event)).collect::<Vec<_>>();
    let places = |of: fn(&Accepted) -> i32| rows.iter().map(|one| of(&one.row.delivery.event)).collect::<Vec<_>>();
    let numbers = |of: fn(&Accepted) -> i64| rows.iter().map(|one| of(&one.row.delivery.event)).collect::<Vec<_>>();
    sqlx::query(
        "INSERT INTO delivery_schedule AS known (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, payload, traceparent,
                                        log_epoch, log_partition, log_offset, state, attempts, due_at, lease_id, places)
         SELECT delivery_id, org_id, event_id, endpoint_id, event_type, to_timestamp(accepted_ms::double precision / 1000), payload,
                traceparent, log_epoch, log_partition, log_offset, state, attempts, now() + make_interval(secs => due_after), lease_id,
                places::jsonb
         FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::bigint[], $7::text[], $8::text[], $9::integer[],
                     $10::integer[], $11::bigint[], $12::text[], $13::integer[], $14::double precision[], $15::uuid[], $16::text[])
              AS t (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_ms, payload, traceparent, log_epoch, log_partition,
                    log_offset, state, attempts, due_after, lease_id, places)
         ORDER BY delivery_id
         ON CONFLICT (delivery_id) DO UPDATE
         SET event_type = EXCLUDED.event_type, accepted_at = EXCLUDED.accepted_at, payload = EXCLUDED.payload,
             traceparent = EXCLUDED.traceparent, log_epoch = EXCLUDED.log_epoch, log_partition = EXCLUDED.log_partition,
             log_offset = CASE WHEN known.state = 'awaiting_verdict' AND EXCLUDED.state = 'awaiting_verdict'
                                    AND (known.log_epoch, known.log_partition) = (EXCLUDED.log_epoch, EXCLUDED.log_partition)
                               THEN GREATEST(known.log_offset, EXCLUDED.log_offset) ELSE EXCLUDED.log_offset END,
             state = EXCLUDED.state, attempts = EXCLUDED.attempts, due_at = EXCLUDED.due_at,
             lease_id = EXCLUDED.lease_id, finished_at = NULL,
             places = CASE WHEN known.state = 'awaiting_verdict' AND EXCLUDED.state = 'awaiting_verdict'
                           THEN schedule_places_merged(
                                    COALESCE(known.places, schedule_places(known.log_partition, known.log_offset)),
                                    COALESCE(EXCLUDED.places, schedule_places(EXCLUDED.log_partition, EXCLUDED.log_offset)))
                           ELSE EXCLUDED.places END
         WHERE known.state IN ('awaiting_verdict', 'dropped')
               AND (known.log_partition, known.log_offset) <> (EXCLUDED.log_partition, EXCLUDED.log_offset)",
    )
    .bind(rows.iter().map(|one| one.row.delivery.id.as_uuid()).collect::<Vec<_>>())
    .bind(event(|event| event.org_id.as_uuid()))
    .bind(event(|event| event.event_id.as_uuid()))
    .bind(rows.iter().map(|one| one.row.delivery.endpoint_id.as_uuid()).collect::<Vec<_>>())
    .bind(rows.iter().map(|one| one.row.delivery.event.event_type.as_str()).collect::<Vec<_>>())
    .bind(numbers(|event| event.accepted_at_ms))
    .bind(rows.iter().map(|one| one.row.delivery.event.payload.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|one| one.row.delivery.event.traceparent.as_deref()).collect::<Vec<_>>())
    .bind(places(|event| event.log_epoch))
    .bind(places(|event| event.partition))
    .bind(rows.iter().map(|one| one.offset).collect::<Vec<_>>())
    .bind(rows.iter().map(|one| one.row.state.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|one| number(one.row.attempts)).collect::<Vec<_>>())
    .bind(rows.iter().map(|one| one.row.due_after.as_secs_f64()).collect::<Vec<_>>())
    .bind(rows.iter().map(|one| one.row.lease).collect::<Vec<_>>())
    .bind(rows.iter().map(contested::Candidate::places).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes outcomes. A row whose lease has passed to somebody else is left alone.
///
/// # Errors
/// As PostgreSQL has them.
pub async fn settle(connection: &mut PgConnection, settlements: &[Settlement]) -> Result<(), sqlx::Error> {
    if settlements.is_empty() {
        return Ok(());
    }
    // Sorted, so that two who settle at once take their row locks in one order.
    let mut sorted = settlements.to_vec();
    sorted.sort_unstable_by_key(|settlement| settlement.delivery_id);
    let split = |settlement: &Settlement| match settlement.outcome {
        Outcome::Ended { state, attempts } => (state, attempts, None),
        Outcome::Again { attempts, after } => (RowState::Pending, attempts, Some(after.as_secs_f64())),
    };
    sqlx::query(
        "UPDATE delivery_schedule AS s
         SET state = t.state, attempts = t.attempts, lease_id = NULL,
             due_at = COALESCE(now() + make_interval(secs => t.due_after), s.due_at),
             finished_at = CASE WHEN t.due_after IS NULL THEN now() END
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::integer[], $5::double precision[])
              AS t (delivery_id, lease_id, state, attempts, due_after)
         WHERE s.delivery_id = t.delivery_id AND s.lease_id = t.lease_id AND s.state = 'pending'",
    )
    .bind(sorted.iter().map(|settlement| settlement.delivery_id.as_uuid()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|settlement| settlement.lease).collect::<Vec<_>>())
    .bind(sorted.iter().map(|settlement| split(settlement).0.as_str()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|settlement| number(split(settlement).1)).collect::<Vec<_>>())
    .bind(sorted.iter().map(|settlement| split(settlement).2).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Deliveries of a partition's records from `from` on that have rows already, finished or not, each with the offsets
/// that the row answers for; and all of older logs, whose records may be on this one again.
///
/// A row answers for its own place alone: another record with the same event id asks the view for itself, and at most
/// one of the two is shown. A contested row, which is sent whichever of its places is shown, answers for all of them.
/// In an older log offsets say nothing: a row that is sent without asking for its place, or was, answers for every
/// record of this one.
///
/// # Errors
/// As PostgreSQL has them.
pub async fn scheduled_from(
    pool: &PgPool,
    partition: i32,
    log_epoch: i32,
    from: i64,
) -> Result<HashMap<DeliveryId, RangeInclusive<i64>>, sqlx::Error> {
    let rows: Vec<(Uuid, i64, i64, bool)> = sqlx::query_as(
        "SELECT delivery_id, CASE WHEN log_epoch = $2 THEN COALESCE((places -> $1::integer::text ->> 0)::bigint, log_offset) ELSE log_offset END, log_offset,
                log_epoch < $2 AND state <> 'dropped' AND (places IS NOT NULL OR state <> 'awaiting_verdict')
         FROM delivery_schedule WHERE log_partition = $1::integer AND (log_offset >= $3 OR log_epoch < $2)",
    )
    .bind(partition)
    .bind(log_epoch)
    .bind(from)
    .fetch_all(pool)
    .await?;
    let offsets = |first, last, everywhere| if everywhere { 0..=i64::MAX } else { first..=last };
    Ok(rows
        .into_iter()
        .map(|(id, first, last, everywhere)| (DeliveryId::from_uuid(id), offsets(first, last, everywhere)))
        .collect())
}

/// Endpoints with pending rows, and in how many seconds the first of each is due (negative: it has been). Costs one
/// look at the index per endpoint, however many rows each has.
///
/// # Errors
/// As PostgreSQL has them.
pub async fn due_endpoints(pool: &PgPool) -> Result<Vec<(EndpointId, f64)>, sqlx::Error> {
    let rows: Vec<(Uuid, f64)> = sqlx::query_as(
        "WITH RECURSIVE first AS (
             (SELECT endpoint_id, due_at FROM delivery_schedule WHERE state = 'pending' ORDER BY endpoint_id, due_at LIMIT 1)
             UNION ALL
             SELECT next.endpoint_id, next.due_at
             FROM first CROSS JOIN LATERAL (
                 SELECT d.endpoint_id, d.due_at FROM delivery_schedule d
                 WHERE d.state = 'pending' AND d.endpoint_id > first.endpoint_id ORDER BY d.endpoint_id, d.due_at LIMIT 1
             ) AS next
         )
         SELECT endpoint_id, extract(epoch FROM due_at - now())::double precision FROM first",
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(id, seconds)| (EndpointId::from_uuid(id), seconds)).collect())
}

/// Takes due rows, at most so many per endpoint, each for the time given with its endpoint: until then nobody else
/// takes them.
///
/// # Errors
/// As PostgreSQL has them; nothing is taken then.
pub async fn take(pool: &PgPool, wanted: &[(EndpointId, usize, Duration)]) -> Result<Vec<Taken>, sqlx::Error> {
    sqlx::query_as(
        "UPDATE delivery_schedule AS s
         SET lease_id = gen_random_uuid(), due_at = now() + make_interval(secs => due.lease_seconds)
         FROM (
             SELECT picked.delivery_id, wanted.lease_seconds
             FROM UNNEST($1::uuid[], $2::bigint[], $3::double precision[]) AS wanted (endpoint_id, most, lease_seconds)
             CROSS JOIN LATERAL (
                 SELECT d.delivery_id FROM delivery_schedule d
                 WHERE d.state = 'pending' AND d.endpoint_id = wanted.endpoint_id AND d.due_at <= now()
                 ORDER BY d.due_at LIMIT wanted.most FOR UPDATE SKIP LOCKED
             ) AS picked
         ) AS due
         WHERE s.delivery_id = due.delivery_id
         RETURNING s.delivery_id, s.org_id, s.event_id, s.endpoint_id, s.event_type, s.accepted_at, s.payload, s.traceparent, s.log_epoch,
                   s.log_partition, s.log_offset, s.attempts, s.lease_id,
                   EXISTS (SELECT FROM contract.acknowledged a WHERE a.org_id = s.org_id AND a.event_id = s.event_id) AS acknowledged",
    )
    .bind(wanted.iter().map(|(endpoint, ..)| endpoint.as_uuid()).collect::<Vec<_>>())
    .bind(wanted.iter().map(|(_, most, _)| i64::try_from(*most).unwrap_or(i64::MAX)).collect::<Vec<_>>())
    .bind(wanted.iter().map(|(.., lease)| lease.as_secs_f64()).collect::<Vec<_>>())
    .fetch_all(pool)
    .await
}

impl FromRow<'_, PgRow> for Taken {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let accepted_at: OffsetDateTime = row.try_get("accepted_at")?;
        let event = Accepted {
            org_id: OrgId::from_uuid(row.try_get("org_id")?),
            event_id: EventId::from_uuid(row.try_get("event_id")?),
            event_type: row.try_get("event_type")?,
            accepted_at_ms: accepted_at.unix_timestamp() * 1000 + i64::from(accepted_at.millisecond()),
            payload: row.try_get("payload")?,
            traceparent: row.try_get("traceparent")?,
            log_epoch: row.try_get("log_epoch")?,
            partition: row.try_get("log_partition")?,
            offset: row.try_get("log_offset")?,
        };
        let endpoint_id = EndpointId::from_uuid(row.try_get("endpoint_id")?);
        let id = DeliveryId::from_uuid(row.try_get("delivery_id")?);
        let attempts: i32 = row.try_get("attempts")?;
        Ok(Self {
            delivery: Delivery { id, endpoint_id, event: Arc::new(event) },
            attempts: u32::try_from(attempts).unwrap_or(0),
            lease: row.try_get("lease_id")?,
            acknowledged: row.try_get("acknowledged")?,
        })
    }
}

/// Holds rows that were taken and whose endpoint is disabled; enabling it releases them. Answers those that were held.
/// The endpoint's row is locked against a change, so that nothing is held that an enabling just now has not seen.
///
/// # Errors
/// As PostgreSQL has them.
pub async fn hold(pool: &PgPool, taken: &[(DeliveryId, Uuid)]) -> Result<HashSet<DeliveryId>, sqlx::Error> {
    let held: Vec<(Uuid,)> = sqlx::query_as(
        "WITH disabled AS (
             SELECT e.id FROM endpoints e
             WHERE NOT e.enabled AND e.deleted_at IS NULL
                   AND e.id IN (SELECT d.endpoint_id FROM delivery_schedule d WHERE d.delivery_id = ANY ($1))
             ORDER BY e.id FOR SHARE
         )
         UPDATE delivery_schedule AS s SET state = 'held', lease_id = NULL
         FROM UNNEST($1::uuid[], $2::uuid[]) AS t (delivery_id, lease_id), disabled
         WHERE s.delivery_id = t.delivery_id AND s.lease_id = t.lease_id AND s.state = 'pending' AND s.endpoint_id = disabled.id
         RETURNING s.delivery_id",
    )
    .bind(taken.iter().map(|(id, _)| id.as_uuid()).collect::<Vec<_>>())
    .bind(taken.iter().map(|(_, lease)| *lease).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    Ok(held.into_iter().map(|(id,)| DeliveryId::from_uuid(id)).collect())
}

/// Decides on rows whose record the view has passed: shown and no duplicate, so pending; otherwise dropped (a
/// duplicate, a record whose event id another one has, erased, or a dead letter). For a row of an older log epoch
/// offsets say nothing: it is decided as soon as the view knows its event, and at the latest when the position has
/// passed a younger record. A contested one answers for all records of the newer log (see [`scheduled_from`]), so it is
/// sent whatever place is shown. Answers how many were decided.
///
/// # Errors
/// As PostgreSQL has them.
pub async fn decide(pool: &PgPool, materializer: &str, topic: &str) -> Result<u64, sqlx::Error> {
    let decided = sqlx::query(
        "WITH passed AS (
             SELECT d.delivery_id,
                    EXISTS (SELECT FROM contract.events e WHERE e.org_id = d.org_id AND e.event_id = d.event_id
                            AND CASE WHEN d.places IS NULL THEN e.log_partition = d.log_partition AND e.log_offset = d.log_offset
                                     ELSE p.log_epoch > d.log_epoch
                                          OR e.log_offset BETWEEN (d.places -> e.log_partition::text ->> 0)::bigint
                                                              AND (d.places -> e.log_partition::text ->> 1)::bigint END)
                    AND NOT EXISTS (SELECT FROM contract.duplicates v WHERE v.org_id = d.org_id AND v.event_id = d.event_id) AS deliver
             FROM delivery_schedule d JOIN consumer_positions p
                  ON p.consumer = $1 AND p.topic = $2 AND p.partition = d.log_partition
             WHERE d.state = 'awaiting_verdict'
                   AND CASE WHEN p.log_epoch = d.log_epoch THEN p.next_offset > d.log_offset
                            ELSE p.log_epoch > d.log_epoch
                                 AND (p.record_time > d.accepted_at
                                      OR EXISTS (SELECT FROM contract.events e WHERE e.org_id = d.org_id AND e.event_id = d.event_id)
                                      OR EXISTS (SELECT FROM contract.duplicates v WHERE v.org_id = d.org_id AND v.event_id = d.event_id))
                       END
             ORDER BY d.delivery_id LIMIT $3 FOR UPDATE OF d SKIP LOCKED
         )
         UPDATE delivery_schedule AS s
         SET state = CASE WHEN passed.deliver THEN 'pending' ELSE 'dropped' END,
             due_at = now(), finished_at = CASE WHEN passed.deliver THEN NULL ELSE now() END
         FROM passed WHERE s.delivery_id = passed.delivery_id AND s.state = 'awaiting_verdict'",
    )
    .bind(materializer)
    .bind(topic)
    .bind(DECIDE_ROWS)
    .execute(pool)
    .await?;
    Ok(decided.rows_affected())
}

/// Deletes finished rows whose record the dispatcher's position has passed (of an older log epoch: a younger one):
/// nobody reads it again. Answers how many; call again while it is a full batch.
///
/// # Errors
/// As PostgreSQL has them.
pub async fn sweep(pool: &PgPool, consumer: &str, topic: &str) -> Result<bool, sqlx::Error> {
    let swept = sqlx::query(
        "DELETE FROM delivery_schedule WHERE delivery_id IN (
             SELECT d.delivery_id FROM delivery_schedule d JOIN consumer_positions p
                    ON p.consumer = $1 AND p.topic = $2 AND p.partition = d.log_partition
             WHERE d.finished_at IS NOT NULL
                   AND CASE WHEN p.log_epoch = d.log_epoch THEN p.next_offset > d.log_offset
                            ELSE p.log_epoch > d.log_epoch AND p.record_time > d.accepted_at END
             ORDER BY d.finished_at LIMIT $3 FOR UPDATE OF d SKIP LOCKED
         )",
    )
    .bind(consumer)
    .bind(topic)
    .bind(SWEEP_ROWS)
    .execute(pool)
    .await?;
    Ok(i64::try_from(swept.rows_affected()).is_ok_and(|rows| rows >= SWEEP_ROWS))
}

/// Rows that are not finished; 10,000 stands for more.
///
/// # Errors
/// As PostgreSQL has them.
pub async fn depth(pool: &PgPool) -> Result<i64, sqlx::Error> {
    let (rows,): (i64,) = sqlx::query_as(
        "SELECT count(*) FROM (SELECT FROM delivery_schedule WHERE finished_at IS NULL LIMIT $1) AS open",
    )
    .bind(COUNTED_ROWS)
    .fetch_one(pool)
    .await?;
    Ok(rows)
}

/// Deletes rows of an organization, at most a batch, finished or not; an attempt under way then finds nothing to
/// settle. Answers how many.
///
/// # Errors
/// As PostgreSQL has them.
pub async fn erase(connection: &mut PgConnection, org_id: OrgId) -> Result<u64, sqlx::Error> {
    let erased = sqlx::query(
        "DELETE FROM delivery_schedule WHERE delivery_id IN (SELECT delivery_id FROM delivery_schedule WHERE org_id = $1 LIMIT $2)",
    )
    .bind(org_id.as_uuid())
    .bind(SWEEP_ROWS)
    .execute(connection)
    .await?;
    Ok(erased.rows_affected())
}

/// Attempts are a handful; the column is a signed integer.
fn number(attempts: u32) -> i32 {
    i32::try_from(attempts).unwrap_or(i32::MAX)
}
