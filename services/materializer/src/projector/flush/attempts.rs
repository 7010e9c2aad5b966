//! Delivery attempts into the view: each attempt, each delivery as its last attempt left it, and the event's status
//! over all its deliveries.
//!
//! A delivery's row does not need its event. Where the event is not there yet, a mark in `view.pending_effects` has its
//! status computed when it appears.

use std::collections::BTreeMap;

use platform::kafka::Record;
use schemas::records::{DeliveryAttempt, DeliveryOutcome};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::metrics::METRICS;

/// One attempt and its place.
pub(super) struct Row<'a> {
    pub(super) record: &'a Record,
    pub(super) attempt: &'a DeliveryAttempt,
}

/// Applies the attempts of a batch.
pub(super) async fn apply(connection: &mut PgConnection, rows: &[Row<'_>]) -> Result<(), sqlx::Error> {
    insert_attempts(connection, rows).await?;
    upsert_deliveries(connection, rows).await?;
    let mut events: Vec<(Uuid, Uuid)> =
        rows.iter().map(|row| (row.attempt.org_id.as_uuid(), row.attempt.event_id.as_uuid())).collect();
    events.sort_unstable();
    events.dedup();
    let (orgs, ids): (Vec<Uuid>, Vec<Uuid>) = events.into_iter().unzip();
    mark_absent(connection, rows).await?;
    aggregate(connection, &orgs, &ids).await?;
    METRICS.rows.with_label_values(&["attempt"]).inc_by(rows.len() as u64);
    Ok(())
}

/// Computes the status of events that appeared after attempts to deliver them. Marks of events that are still absent
/// stay, but for duplicates: those never appear.
pub(super) async fn apply_waiting(
    connection: &mut PgConnection,
    orgs: &[Uuid],
    ids: &[Uuid],
) -> Result<(), sqlx::Error> {
    let taken: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "DELETE FROM pending_effects p USING UNNEST($1::uuid[], $2::uuid[]) AS t (org_id, event_id)
         WHERE p.org_id = t.org_id AND p.event_id = t.event_id AND p.effect = 'attempt'
               AND (EXISTS (SELECT FROM events e WHERE e.org_id = t.org_id AND e.event_id = t.event_id)
                    OR EXISTS (SELECT FROM verdicts v WHERE v.org_id = t.org_id AND v.event_id = t.event_id))
         RETURNING p.org_id, p.event_id",
    )
    .bind(orgs)
    .bind(ids)
    .fetch_all(&mut *connection)
    .await?;
    if taken.is_empty() {
        return Ok(());
    }
    let (orgs, ids): (Vec<Uuid>, Vec<Uuid>) = taken.into_iter().unzip();
    aggregate(connection, &orgs, &ids).await
}

async fn insert_attempts(connection: &mut PgConnection, rows: &[Row<'_>]) -> Result<(), sqlx::Error> {
    let attempts = || rows.iter().map(|row| row.attempt);
    sqlx::query(
        "INSERT INTO delivery_attempts (org_id, delivery_id, attempt, outcome, started_at, latency_ms, status_code, error, response_excerpt,
                                        appended_at)
         SELECT org_id, delivery_id, attempt, outcome, 'epoch'::timestamptz + started_us / 1000000 * interval '1 second' + started_us % 1000000 * interval '1 microsecond', latency_ms, status_code, error, excerpt,
                'epoch'::timestamptz + appended_ms * interval '1 millisecond'
         FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::text[], $5::bigint[], $6::bigint[], $7::integer[], $8::text[], $9::text[],
                     $10::bigint[])
              AS t (org_id, delivery_id, attempt, outcome, started_us, latency_ms, status_code, error, excerpt, appended_ms)
         ON CONFLICT DO NOTHING",
    )
    .bind(attempts().map(|a| a.org_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(attempts().map(|a| a.delivery_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(attempts().map(|a| a.attempt).collect::<Vec<i32>>())
    .bind(attempts().map(|a| a.outcome.as_str()).collect::<Vec<&str>>())
    .bind(attempts().map(|a| a.started_at).collect::<Vec<i64>>())
    .bind(attempts().map(|a| a.latency_ms).collect::<Vec<i64>>())
    .bind(attempts().map(|a| a.status_code).collect::<Vec<Option<i32>>>())
    .bind(attempts().map(|a| a.error.as_deref()).collect::<Vec<Option<&str>>>())
    .bind(attempts().map(|a| a.response_excerpt.as_deref()).collect::<Vec<Option<&str>>>())
    .bind(rows.iter().map(|row| row.record.timestamp_ms).collect::<Vec<i64>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn upsert_deliveries(connection: &mut PgConnection, rows: &[Row<'_>]) -> Result<(), sqlx::Error> {
    // As the statement decides against what is stored. An end is never followed by a retry, so what says so was told
    // late: by a dispatcher that was halted, or was out of reach of the log, while another one went on. What an
    // endpoint took stays taken. Among equals the highest attempt counts, and of several tellings of one attempt that
    // which was appended last. So it does not matter in which parts the log is read, or read again. Each with when the
    // first one that was read began: what stands in the row afterwards must not depend on how records were batched.
    let mut last: BTreeMap<(Uuid, Uuid), (&Row<'_>, i64)> = BTreeMap::new();
    for row in rows {
        let key = (row.attempt.org_id.as_uuid(), row.attempt.delivery_id.as_uuid());
        let (kept, _) = last.entry(key).or_insert((row, row.attempt.started_at));
        // A record that was appended twice may come after its successors.
        if weight(row) >= weight(kept) {
            *kept = row;
        }
    }
    let attempts = || last.values().map(|(row, _)| row.attempt);
    sqlx::query(
        "INSERT INTO deliveries AS d (org_id, delivery_id, event_id, endpoint_id, event_type, status, attempts, last_started_at,
                                           last_status_code, last_error, next_attempt_at, created_at, last_appended_at)
         SELECT org_id, delivery_id, event_id, endpoint_id, event_type, status, attempts, 'epoch'::timestamptz + started_us / 1000000 * interval '1 second' + started_us % 1000000 * interval '1 microsecond',
                status_code, error, 'epoch'::timestamptz + next_us / 1000000 * interval '1 second' + next_us % 1000000 * interval '1 microsecond', 'epoch'::timestamptz + created_us / 1000000 * interval '1 second' + created_us % 1000000 * interval '1 microsecond',
                'epoch'::timestamptz + appended_ms * interval '1 millisecond'
         FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::integer[], $8::bigint[], $9::integer[], $10::text[], $11::bigint[],
                     $12::bigint[], $13::bigint[])
              AS t (org_id, delivery_id, event_id, endpoint_id, event_type, status, attempts, started_us, status_code, error, next_us, created_us,
                    appended_ms)
         ON CONFLICT (org_id, delivery_id) DO UPDATE
            SET status = EXCLUDED.status, attempts = EXCLUDED.attempts, last_started_at = EXCLUDED.last_started_at,
                last_status_code = EXCLUDED.last_status_code, last_error = EXCLUDED.last_error, next_attempt_at = EXCLUDED.next_attempt_at,
                last_appended_at = EXCLUDED.last_appended_at
            WHERE (CASE EXCLUDED.status WHEN 'delivered' THEN 2 WHEN 'retrying' THEN 0 ELSE 1 END, EXCLUDED.attempts, EXCLUDED.last_appended_at)
                  >= (CASE d.status WHEN 'delivered' THEN 2 WHEN 'retrying' THEN 0 ELSE 1 END, d.attempts, COALESCE(d.last_appended_at, '-infinity'))",
    )
    .bind(attempts().map(|a| a.org_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(attempts().map(|a| a.delivery_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(attempts().map(|a| a.event_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(attempts().map(|a| a.endpoint_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(attempts().map(|a| a.event_type.as_str()).collect::<Vec<&str>>())
    .bind(attempts().map(|a| a.outcome.as_str()).collect::<Vec<&str>>())
    .bind(attempts().map(|a| a.attempt).collect::<Vec<i32>>())
    .bind(attempts().map(|a| a.started_at).collect::<Vec<i64>>())
    .bind(attempts().map(|a| a.status_code).collect::<Vec<Option<i32>>>())
    .bind(attempts().map(|a| a.error.as_deref()).collect::<Vec<Option<&str>>>())
    .bind(attempts().map(|a| a.next_attempt_at).collect::<Vec<Option<i64>>>())
    .bind(last.values().map(|(_, first_started_at)| *first_started_at).collect::<Vec<i64>>())
    .bind(last.values().map(|(row, _)| row.record.timestamp_ms).collect::<Vec<i64>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// What counts of two tellings of a delivery: the greater.
const fn weight(row: &Row<'_>) -> (u8, i32, i64) {
    let finality = match row.attempt.outcome {
        DeliveryOutcome::Delivered => 2,
        DeliveryOutcome::Failed | DeliveryOutcome::Cancelled => 1,
        DeliveryOutcome::Retrying => 0,
    };
    (finality, row.attempt.attempt, row.record.timestamp_ms)
}

async fn mark_absent(connection: &mut PgConnection, rows: &[Row<'_>]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO pending_effects (org_id, event_id, effect, log_partition, log_offset, appended_at)
         SELECT org_id, event_id, 'attempt', log_partition, log_offset, 'epoch'::timestamptz + appended_ms * interval '1 millisecond'
         FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::bigint[], $5::bigint[]) AS t (org_id, event_id, log_partition, log_offset, appended_ms)
         WHERE NOT EXISTS (SELECT FROM events e WHERE e.org_id = t.org_id AND e.event_id = t.event_id)
         ON CONFLICT DO NOTHING",
    )
    .bind(rows.iter().map(|row| row.attempt.org_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(rows.iter().map(|row| row.attempt.event_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(rows.iter().map(|row| row.record.partition).collect::<Vec<i32>>())
    .bind(rows.iter().map(|row| row.record.offset).collect::<Vec<i64>>())
    .bind(rows.iter().map(|row| row.record.timestamp_ms).collect::<Vec<i64>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// The event's status over its deliveries: failed for good before retrying before pending before delivered; cancelled
/// ones do not count.
async fn aggregate(connection: &mut PgConnection, orgs: &[Uuid], ids: &[Uuid]) -> Result<(), sqlx::Error> {
    // A statement of its own, so that the sum is taken after who held the lock before has committed. Else what was
    // summed up before that commit would be written over what came after it.
    sqlx::query(
        "SELECT FROM events WHERE (org_id, event_id) IN (SELECT * FROM UNNEST($1::uuid[], $2::uuid[]))
         ORDER BY org_id, event_id FOR NO KEY UPDATE",
    )
    .bind(orgs)
    .bind(ids)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE events e SET delivery_status = s.status, attempts = s.attempts
         FROM (SELECT d.org_id, d.event_id, LEAST(sum(d.attempts), 2147483647)::integer AS attempts,
                      CASE WHEN bool_or(d.status = 'failed') THEN 'failed'
                           WHEN bool_or(d.status = 'retrying') THEN 'retrying'
                           WHEN bool_or(d.status = 'delivered') THEN 'delivered'
                           ELSE 'pending' END AS status
               FROM deliveries d JOIN (SELECT DISTINCT * FROM UNNEST($1::uuid[], $2::uuid[]) AS t (org_id, event_id)) asked USING (org_id, event_id)
               GROUP BY d.org_id, d.event_id) s
         WHERE e.org_id = s.org_id AND e.event_id = s.event_id AND (e.delivery_status, e.attempts) IS DISTINCT FROM (s.status, s.attempts)",
    )
    .bind(orgs)
    .bind(ids)
    .execute(connection)
    .await?;
    Ok(())
}
