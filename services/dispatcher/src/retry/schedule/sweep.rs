//! Ends schedules, deletes rows that are no longer needed, and counts the rest.

use std::time::Duration;

use schemas::ids::OrgId;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::delivery::TEST_PARTITION;
use crate::retry::schedule::lanes::{self, LaneDue};
use crate::retry::schedule::usage::{self, UsageChange};
use crate::retry::schedule::{events, queues};

/// Rows that one sweep deletes at most.
const SWEEP_ROWS: i64 = 1000;
/// Counting open rows stops here: a gauge is not worth a scan.
const COUNTED_ROWS: i64 = 10_000;

/// Deletes finished rows whose record lies before the dispatcher's position (of an older log epoch: a younger record
/// does), so that it is not read again. The row of a test is no record, and that of a manual retry with a negative
/// epoch was made when its record had been read. The rows of both stay until the view shows their end, or an hour:
/// another retry takes the numbers of round and attempts from one of the two. While a replay of events to its endpoint
/// is running, each row stays until the view shows its end: the replay takes what is in neither for missing.
/// `true`: the batch was full, so there may be more.
pub(crate) async fn sweep(pool: &PgPool, consumer: &str, topic: &str) -> Result<bool, sqlx::Error> {
    let mut transaction = runtime::postgres::begin(pool).await?;
    // An array, or a nested loop may read the subquery several times, each time beyond the rows deleted already.
    let swept: Vec<(i32, i32, i64)> = sqlx::query_as(
        "DELETE FROM delivery_schedule WHERE delivery_id = ANY (ARRAY(
             SELECT d.delivery_id FROM delivery_schedule d LEFT JOIN consumer_positions p
                    ON p.consumer = $1 AND p.topic = $2 AND p.partition = d.log_partition
             WHERE d.finished_at IS NOT NULL
                   AND CASE WHEN d.log_partition = $4 OR d.log_epoch < 0 THEN true
                            WHEN p.log_epoch = d.log_epoch THEN p.next_offset > d.log_offset
                            ELSE p.log_epoch > d.log_epoch AND p.record_time > d.accepted_at END
                   AND ((d.round = 0 AND d.log_partition <> $4 OR d.finished_at < now() - interval '1 hour')
                        AND NOT EXISTS (SELECT FROM replays r
                                        WHERE r.endpoint_id = d.endpoint_id AND r.status = 'running'
                                              AND r.only_status <> 'failed')
                        OR EXISTS (SELECT FROM contract.deliveries v
                                   WHERE v.org_id = d.org_id AND v.delivery_id = d.delivery_id
                                         AND (v.round, v.attempts) >= (d.round, d.attempts)))
             ORDER BY d.finished_at LIMIT $3 FOR UPDATE OF d SKIP LOCKED
         ))
         RETURNING log_partition, log_epoch, log_offset",
    )
    .persistent(false)
    .bind(consumer)
    .bind(topic)
    .bind(SWEEP_ROWS)
    .bind(TEST_PARTITION)
    .fetch_all(&mut *transaction)
    .await?;
    let is_full = swept.len() >= SWEEP_ROWS as usize;
    let mut change = UsageChange::default();
    for (org_id, bytes) in events::delete_unused(&mut transaction, swept).await? {
        change.add_bytes(org_id, -bytes);
    }
    usage::apply(&mut transaction, change).await?;
    transaction.commit().await?;
    Ok(is_full)
}

/// Where the look for schedules that have ended continues: the age and the id of the last row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct EndedCursor(OffsetDateTime, Uuid);

/// Refuses rows whose schedule has ended: `max_age` after they were made or their endpoint was enabled, and for a held
/// row when its event has left the view. Looks at a batch of the old rows, from the oldest or from where the last look
/// ended. `None`: it has seen all of them.
pub(crate) async fn end_schedules(
    pool: &PgPool,
    max_age: Duration,
    from: Option<EndedCursor>,
) -> Result<Option<EndedCursor>, sqlx::Error> {
    let (after, id) = from.map_or((None, Uuid::nil()), |EndedCursor(after, id)| (Some(after), id));
    let mut transaction = runtime::postgres::begin(pool).await?;
    let old: Vec<OldRow> = sqlx::query_as(
        "WITH old AS MATERIALIZED (
             SELECT d.delivery_id, d.created_at,
                    CASE WHEN d.accepted_at < (SELECT floor FROM contract.retention_floor) THEN $6
                         WHEN COALESCE(q.is_held, false) THEN NULL
                         WHEN greatest(d.created_at, q.resumed_at) < now() - make_interval(secs => $1) THEN $5
                    END AS refusal
             FROM delivery_schedule d LEFT JOIN endpoint_queues q ON q.endpoint_id = d.endpoint_id
             WHERE d.state = 'pending' AND d.refusal IS NULL AND d.created_at < now() - make_interval(secs => $1)
                   AND (d.created_at, d.delivery_id) > (COALESCE($2, '-infinity'), $3)
             ORDER BY d.created_at, d.delivery_id LIMIT $4
         ), ended AS (
             UPDATE delivery_schedule s SET refusal = old.refusal, due_at = now()
             FROM old
             WHERE s.delivery_id = old.delivery_id AND old.refusal IS NOT NULL AND s.lease_id IS NULL
                   AND s.state = 'pending' AND s.refusal IS NULL
             RETURNING s.delivery_id, s.endpoint_id, s.org_id, s.lane
         )
         SELECT old.created_at, old.delivery_id, ended.endpoint_id, ended.org_id, ended.lane
         FROM old LEFT JOIN ended ON ended.delivery_id = old.delivery_id AND ended.lane IS NOT NULL
         ORDER BY old.created_at, old.delivery_id",
    )
    .persistent(false)
    .bind(max_age.as_secs_f64())
    .bind(after)
    .bind(id)
    .bind(SWEEP_ROWS)
    .bind("the time for retries is over")
    .bind("the event is older than the retention period")
    .fetch_all(&mut *transaction)
    .await?;
    // The lane of a row that ended goes on.
    let freed: Vec<LaneDue> = old.iter().filter_map(|row| row.2.as_ref()).copied().collect();
    lanes::lower(&mut transaction, freed.iter().copied()).await?;
    queues::lower(&mut transaction, freed.iter().map(LaneDue::queue_due)).await?;
    transaction.commit().await?;
    let is_full = old.len() >= SWEEP_ROWS as usize;
    Ok(old.last().filter(|_| is_full).map(|OldRow(at, id, _)| EndedCursor(*at, *id)))
}

/// A row that was looked at: its age, its id, and its lane if it has ended.
struct OldRow(OffsetDateTime, Uuid, Option<LaneDue>);

impl FromRow<'_, PgRow> for OldRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let id = |column| row.try_get::<Option<Uuid>, _>(column);
        let freed = match (id("endpoint_id")?, id("lane")?, id("org_id")?) {
            (Some(endpoint), Some(lane), Some(org_id)) => Some(LaneDue::at_once(endpoint, lane, org_id)),
            _ => None,
        };
        Ok(Self(row.try_get("created_at")?, row.try_get("delivery_id")?, freed))
    }
}

/// Unfinished rows, including those that wait for the duplicate decision; 10,000 means 10,000 or more.
pub(crate) async fn depth(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT FROM delivery_schedule WHERE finished_at IS NULL
                               UNION ALL SELECT FROM deliveries_awaiting_dedup LIMIT $1) AS unfinished",
    )
    .bind(COUNTED_ROWS)
    .fetch_one(pool)
    .await
}

/// Deletes what there is of an organization, at most a batch of each table. The outcome of an attempt in flight then
/// finds no row. Returns how many rows were deleted.
pub(crate) async fn erase(connection: &mut PgConnection, org_id: OrgId) -> Result<u64, sqlx::Error> {
    // In this order, since rows move from the first table to the second.
    let awaiting = sqlx::query(
        "DELETE FROM deliveries_awaiting_dedup WHERE (log_partition, log_epoch, log_offset, endpoint_id) IN (
             SELECT log_partition, log_epoch, log_offset, endpoint_id FROM deliveries_awaiting_dedup
             WHERE org_id = $1 LIMIT $2)",
    )
    .bind(org_id.as_uuid())
    .bind(SWEEP_ROWS)
    .execute(&mut *connection)
    .await?;
    let scheduled = sqlx::query(
        "DELETE FROM delivery_schedule WHERE delivery_id IN (
             SELECT delivery_id FROM delivery_schedule WHERE org_id = $1 LIMIT $2)",
    )
    .bind(org_id.as_uuid())
    .bind(SWEEP_ROWS)
    .execute(&mut *connection)
    .await?;
    let others = sqlx::query(
        "WITH events AS (
             DELETE FROM delivery_events WHERE (log_partition, log_epoch, log_offset) IN (
                 SELECT log_partition, log_epoch, log_offset FROM delivery_events WHERE org_id = $1 LIMIT $2)
             RETURNING 1
         ), queues AS (
             DELETE FROM endpoint_queues WHERE endpoint_id IN (
                 SELECT endpoint_id FROM endpoint_queues WHERE org_id = $1 LIMIT $2)
             RETURNING 1
         ), lanes AS (
             DELETE FROM ordered_lanes WHERE (endpoint_id, lane) IN (
                 SELECT endpoint_id, lane FROM ordered_lanes WHERE org_id = $1 LIMIT $2)
             RETURNING 1
         ), usage AS (
             DELETE FROM delivery_usage WHERE org_id = $1 RETURNING 1
         ), replays AS (
             DELETE FROM replays WHERE id IN (SELECT id FROM replays WHERE org_id = $1 LIMIT $2) RETURNING 1
         ), conditions AS (
             DELETE FROM endpoint_conditions WHERE endpoint_id IN (
                 SELECT endpoint_id FROM endpoint_conditions WHERE org_id = $1 LIMIT $2)
             RETURNING 1
         )
         SELECT FROM events UNION ALL SELECT FROM queues UNION ALL SELECT FROM lanes UNION ALL SELECT FROM usage
         UNION ALL SELECT FROM replays UNION ALL SELECT FROM conditions",
    )
    .bind(org_id.as_uuid())
    .bind(SWEEP_ROWS)
    .execute(connection)
    .await?;
    Ok(awaiting.rows_affected() + scheduled.rows_affected() + others.rows_affected())
}
