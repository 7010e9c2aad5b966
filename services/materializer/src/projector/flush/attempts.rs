//! Writes delivery attempts into the view: each attempt, each delivery by its winning report, and the event's status
//! over all its deliveries.
//!
//! A delivery's row does not need its event. If the view does not have the event yet, a pending effect has its status
//! computed when it appears.

use std::collections::BTreeMap;

use kafka::Record;
use schemas::records::{DeliveryAttempt, DeliveryOutcome};
use schemas::unix_time::{from_micros, from_millis};
use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;
use uuid::Uuid;

use crate::columns::column;
use crate::metrics::METRICS;

/// One report of an attempt, and its record.
pub(super) struct AttemptRow<'a> {
    pub(super) record: &'a Record,
    pub(super) attempt: &'a DeliveryAttempt,
}

/// Applies the attempts of a batch.
pub(super) async fn apply(connection: &mut PgConnection, rows: &[AttemptRow<'_>]) -> Result<(), sqlx::Error> {
    insert_attempts(connection, rows).await?;
    upsert_deliveries(connection, rows).await?;
    let mut events: Vec<(Uuid, Uuid)> =
        rows.iter().map(|row| (row.attempt.org_id.as_uuid(), row.attempt.event_id.as_uuid())).collect();
    events.sort_unstable();
    events.dedup();
    let (orgs, ids): (Vec<Uuid>, Vec<Uuid>) = events.into_iter().unzip();
    insert_pending_effects(connection, rows).await?;
    lock_events(connection, &orgs, &ids).await?;
    compute_statuses(connection, &orgs, &ids).await?;
    METRICS.rows.with_label_values(&["attempt"]).inc_by(rows.len() as u64);
    Ok(())
}

/// Inserts the attempts that the view does not have. Of two reports of one attempt with the same outcome, the one that
/// was appended first is kept.
async fn insert_attempts(connection: &mut PgConnection, rows: &[AttemptRow<'_>]) -> Result<(), sqlx::Error> {
    let mut rows: Vec<&AttemptRow<'_>> = rows.iter().collect();
    rows.sort_by_key(|row| {
        let attempt = row.attempt;
        let id = (attempt.org_id.as_uuid(), attempt.delivery_id.as_uuid(), attempt.attempt, attempt.outcome.as_str());
        (id, row.record.timestamp_ms, attempt.started_at)
    });
    let insert = sqlx::query(
        "INSERT INTO delivery_attempts (org_id, delivery_id, attempt, outcome, started_at, latency_ms, status_code,
                                        error, response_excerpt, appended_at, connect_us, send_us, wait_us,
                                        remote_address, batch_id)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::text[], $5::timestamptz[], $6::bigint[],
                              $7::integer[], $8::text[], $9::text[], $10::timestamptz[], $11::bigint[], $12::bigint[],
                              $13::bigint[], $14::text[], $15::uuid[])
         ON CONFLICT DO NOTHING",
    );
    let inserted = bind_attempts(insert, &rows).execute(&mut *connection).await?.rows_affected();
    if inserted < rows.len() as u64 { keep_first_reports(connection, &rows).await } else { Ok(()) }
}

/// Overwrites stored attempts with reports that were appended before theirs: partitions are read in any order. The ids
/// of attempts are unique within a time partition.
async fn keep_first_reports(connection: &mut PgConnection, rows: &[&AttemptRow<'_>]) -> Result<(), sqlx::Error> {
    let update = sqlx::query(
        "UPDATE delivery_attempts a
         SET started_at = t.started_at, latency_ms = t.latency_ms, status_code = t.status_code, error = t.error,
             response_excerpt = t.response_excerpt, appended_at = t.appended_at, connect_us = t.connect_us,
             send_us = t.send_us, wait_us = t.wait_us, remote_address = t.remote_address,
             batch_id = t.batch_id
         FROM (SELECT DISTINCT ON (org_id, delivery_id, attempt, outcome, starts_at) t.*, p.starts_at, p.ends_at
               FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::text[], $5::timestamptz[], $6::bigint[],
                           $7::integer[], $8::text[], $9::text[], $10::timestamptz[], $11::bigint[], $12::bigint[],
                           $13::bigint[], $14::text[], $15::uuid[])
                    AS t (org_id, delivery_id, attempt, outcome, started_at, latency_ms, status_code, error,
                          response_excerpt, appended_at, connect_us, send_us, wait_us, remote_address, batch_id)
               JOIN time_partitions p ON t.appended_at >= p.starts_at AND t.appended_at < p.ends_at
               ORDER BY org_id, delivery_id, attempt, outcome, starts_at, t.appended_at, t.started_at) t
         WHERE a.org_id = t.org_id AND a.delivery_id = t.delivery_id AND a.attempt = t.attempt
               AND a.outcome = t.outcome AND a.appended_at >= t.starts_at AND a.appended_at < t.ends_at
               AND (t.appended_at, t.started_at) < (a.appended_at, a.started_at)",
    );
    bind_attempts(update, rows).execute(connection).await?;
    Ok(())
}

fn bind_attempts<'q>(
    query: Query<'q, Postgres, PgArguments>,
    rows: &[&'q AttemptRow<'_>],
) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(column(rows, |row| row.attempt.org_id.as_uuid()))
        .bind(column(rows, |row| row.attempt.delivery_id.as_uuid()))
        .bind(column(rows, |row| row.attempt.attempt))
        .bind(column(rows, |row| row.attempt.outcome.as_str()))
        .bind(column(rows, |row| from_micros(row.attempt.started_at)))
        .bind(column(rows, |row| row.attempt.latency_ms))
        .bind(column(rows, |row| row.attempt.status_code))
        .bind(column(rows, |row| row.attempt.error.as_deref()))
        .bind(column(rows, |row| row.attempt.response_excerpt.as_deref()))
        .bind(column(rows, |row| from_millis(row.record.timestamp_ms)))
        .bind(column(rows, |row| row.attempt.connect_us))
        .bind(column(rows, |row| row.attempt.send_us))
        .bind(column(rows, |row| row.attempt.wait_us))
        .bind(column(rows, |row| row.attempt.remote_address.as_deref()))
        .bind(column(rows, |row| row.attempt.batch_id.map(|batch| batch.as_uuid())))
}

/// Rank of a report of a delivery, stored with it. The highest rank wins; among equals the highest attempt; among
/// reports of one attempt the one that was appended last; among those of one millisecond the one that started last. So
/// the row depends neither on the order and the batches in which partitions are read, nor on how often they are read.
/// (The reports of one delivery are in several partitions after the topic got more of them.)
///
/// A final outcome is never followed by a retry. A later report of a retry was delayed: its dispatcher was halted, or
/// could not reach Kafka, while another one continued. A delivery that an endpoint accepted stays delivered, until it
/// is retried by hand: every report of a later round has a higher rank than those of the rounds before.
fn rank(attempt: &DeliveryAttempt) -> i16 {
    let round = i16::try_from(attempt.round).unwrap_or(MAX_ROUND).clamp(0, MAX_ROUND);
    let in_round = match attempt.outcome {
        DeliveryOutcome::Delivered => 2,
        DeliveryOutcome::Failed | DeliveryOutcome::Cancelled => 1,
        DeliveryOutcome::Retrying => 0,
    };
    RANKS_OF_ROUND * round + in_round
}

/// `contract.deliveries` divides by it to show the round.
const RANKS_OF_ROUND: i16 = 3;
/// Rounds beyond it count as this one.
const MAX_ROUND: i16 = 10_000;

/// The winning report of one delivery in a batch.
struct Winner<'a> {
    row: &'a AttemptRow<'a>,
    /// Earliest start of an attempt in the batch, microseconds since the Unix epoch. The earliest one of all batches is
    /// `created_at` of the delivery's row.
    first_started_at: i64,
    /// The least number in the batch. Two readings of an event's record can differ in it; an endpoint that was deleted
    /// between them gets no delivery that would end.
    endpoints_matched: Option<i32>,
}

fn winners<'a>(rows: &'a [AttemptRow<'a>]) -> Vec<Winner<'a>> {
    let order = |row: &AttemptRow<'_>| {
        (rank(row.attempt), row.attempt.attempt, row.record.timestamp_ms, row.attempt.started_at)
    };
    let mut winners: BTreeMap<(Uuid, Uuid), Winner<'a>> = BTreeMap::new();
    for row in rows {
        let delivery = (row.attempt.org_id.as_uuid(), row.attempt.delivery_id.as_uuid());
        let (first_started_at, endpoints_matched) = (row.attempt.started_at, row.attempt.endpoints_matched);
        let winner = winners.entry(delivery).or_insert(Winner { row, first_started_at, endpoints_matched });
        winner.first_started_at = winner.first_started_at.min(first_started_at);
        winner.endpoints_matched = winner.endpoints_matched.into_iter().chain(endpoints_matched).min();
        // A record that was appended twice may come after later records.
        if order(row) >= order(winner.row) {
            winner.row = row;
        }
    }
    winners.into_values().collect()
}

async fn upsert_deliveries(connection: &mut PgConnection, rows: &[AttemptRow<'_>]) -> Result<(), sqlx::Error> {
    let winners = winners(rows);
    let upsert = sqlx::query(
        "INSERT INTO deliveries AS d (org_id, delivery_id, event_id, endpoint_id, event_type, status, rank, attempts,
                                      last_started_at, last_status_code, last_error, next_attempt_at, created_at,
                                      last_appended_at, endpoints_matched)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::smallint[],
                              $8::integer[], $9::timestamptz[], $10::integer[], $11::text[], $12::timestamptz[],
                              $13::timestamptz[], $14::timestamptz[], $15::integer[])
         ON CONFLICT (org_id, delivery_id) DO UPDATE
            SET status = EXCLUDED.status, rank = EXCLUDED.rank, attempts = EXCLUDED.attempts,
                last_started_at = EXCLUDED.last_started_at, last_status_code = EXCLUDED.last_status_code,
                last_error = EXCLUDED.last_error, next_attempt_at = EXCLUDED.next_attempt_at,
                created_at = LEAST(d.created_at, EXCLUDED.created_at), last_appended_at = EXCLUDED.last_appended_at,
                endpoints_matched = LEAST(d.endpoints_matched, EXCLUDED.endpoints_matched)
            WHERE (EXCLUDED.rank, EXCLUDED.attempts, EXCLUDED.last_appended_at, EXCLUDED.last_started_at)
                  >= (d.rank, d.attempts, d.last_appended_at, d.last_started_at)",
    )
    .bind(column(&winners, |winner| winner.row.attempt.org_id.as_uuid()))
    .bind(column(&winners, |winner| winner.row.attempt.delivery_id.as_uuid()))
    .bind(column(&winners, |winner| winner.row.attempt.event_id.as_uuid()))
    .bind(column(&winners, |winner| winner.row.attempt.endpoint_id.as_uuid()))
    .bind(column(&winners, |winner| winner.row.attempt.event_type.as_str()))
    .bind(column(&winners, |winner| winner.row.attempt.outcome.as_str()))
    .bind(column(&winners, |winner| rank(winner.row.attempt)))
    .bind(column(&winners, |winner| winner.row.attempt.attempt))
    .bind(column(&winners, |winner| from_micros(winner.row.attempt.started_at)))
    .bind(column(&winners, |winner| winner.row.attempt.status_code))
    .bind(column(&winners, |winner| winner.row.attempt.error.as_deref()))
    .bind(column(&winners, |winner| winner.row.attempt.next_attempt_at.map(from_micros)))
    .bind(column(&winners, |winner| from_micros(winner.first_started_at)))
    .bind(column(&winners, |winner| from_millis(winner.row.record.timestamp_ms)))
    .bind(column(&winners, |winner| winner.endpoints_matched));
    let written = upsert.execute(&mut *connection).await?.rows_affected();
    if written < winners.len() as u64 { lower_minima(connection, &winners).await } else { Ok(()) }
}

/// Lowers `created_at` and `endpoints_matched` also where the stored report wins.
async fn lower_minima(connection: &mut PgConnection, winners: &[Winner<'_>]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE deliveries d
         SET created_at = LEAST(d.created_at, t.created_at),
             endpoints_matched = LEAST(d.endpoints_matched, t.endpoints_matched)
         FROM UNNEST($1::uuid[], $2::uuid[], $3::timestamptz[], $4::integer[])
              AS t (org_id, delivery_id, created_at, endpoints_matched)
         WHERE d.org_id = t.org_id AND d.delivery_id = t.delivery_id
               AND (t.created_at < d.created_at
                    OR t.endpoints_matched IS NOT NULL AND (t.endpoints_matched >= d.endpoints_matched) IS NOT TRUE)",
    )
    .bind(column(winners, |winner| winner.row.attempt.org_id.as_uuid()))
    .bind(column(winners, |winner| winner.row.attempt.delivery_id.as_uuid()))
    .bind(column(winners, |winner| from_micros(winner.first_started_at)))
    .bind(column(winners, |winner| winner.endpoints_matched))
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_pending_effects(connection: &mut PgConnection, rows: &[AttemptRow<'_>]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO pending_effects (org_id, event_id, effect, log_partition, log_offset, appended_at)
         SELECT org_id, event_id, 'attempt', log_partition, log_offset, appended_at
         FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[], $5::timestamptz[])
              AS t (org_id, event_id, log_partition, log_offset, appended_at)
         WHERE NOT EXISTS (SELECT FROM events e WHERE e.org_id = t.org_id AND e.event_id = t.event_id)
         ON CONFLICT DO NOTHING",
    )
    .bind(column(rows, |row| row.attempt.org_id.as_uuid()))
    .bind(column(rows, |row| row.attempt.event_id.as_uuid()))
    .bind(column(rows, |row| row.record.partition))
    .bind(column(rows, |row| row.record.offset))
    .bind(column(rows, |row| from_millis(row.record.timestamp_ms)))
    .execute(connection)
    .await?;
    Ok(())
}

async fn lock_events(connection: &mut PgConnection, orgs: &[Uuid], ids: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT FROM events WHERE (org_id, event_id) IN (SELECT * FROM UNNEST($1::uuid[], $2::uuid[]))
         ORDER BY org_id, event_id FOR NO KEY UPDATE",
    )
    .bind(orgs)
    .bind(ids)
    .execute(connection)
    .await?;
    Ok(())
}

/// The event's status over its deliveries: failed before retrying before pending before delivered. It is pending while
/// more endpoints matched the event than have reported. Cancelled ones do not count.
///
/// The caller has locked the events in an earlier statement. So the sum sees the rows that the previous holder of the
/// lock committed. Else a sum from before that commit would overwrite the one after it.
pub(super) async fn compute_statuses(
    connection: &mut PgConnection,
    orgs: &[Uuid],
    ids: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE events e SET delivery_status = s.status, attempts = s.attempts
         FROM (SELECT d.org_id, d.event_id, LEAST(sum(d.attempts), 2147483647)::integer AS attempts,
                      CASE WHEN bool_or(d.status = 'failed') THEN 'failed'
                           WHEN bool_or(d.status = 'retrying') THEN 'retrying'
                           WHEN count(*) < max(d.endpoints_matched) THEN 'pending'
                           WHEN bool_or(d.status = 'delivered') THEN 'delivered'
                           ELSE 'pending' END AS status
               FROM deliveries d
               JOIN (SELECT DISTINCT * FROM UNNEST($1::uuid[], $2::uuid[]) AS t (org_id, event_id)) asked
                    USING (org_id, event_id)
               GROUP BY d.org_id, d.event_id) s
         WHERE e.org_id = s.org_id AND e.event_id = s.event_id
               AND (e.delivery_status, e.attempts) IS DISTINCT FROM (s.status, s.attempts)",
    )
    .bind(orgs)
    .bind(ids)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
