//! Which record an event's id belongs to, where the id alone does not say.
//!
//! An id is unique within each part of the view by that part's index. Over all parts it is, when it can only lie in
//! one: an id that ingest makes tells its day (UUIDv7), and lies in the part of that day. Every other id (a native
//! record's, one made just before midnight), and every one that another record may have, is told its place in
//! `event_places` before it is inserted; so is one that a second record named, once that is found, and one that a key
//! is decided on, which may make it a duplicate, while another record may name it under another key. Whoever names such
//! an id from elsewhere is a duplicate. The table is a decision, like a verdict: a rebuild reads it and takes no
//! decision of its own. It is kept until the newest record that named the id is below the floor: no reading takes any
//! of them then.

use std::collections::BTreeSet;

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::events::Row;

const DAY_MS: i64 = 86_400_000;

/// Gives the ids that do not tell their part, or that several records may have, to the record that names them first.
/// `offered`: in the order of their ids, and of one id in the order in which they were read.
pub(super) async fn claim(connection: &mut PgConnection, offered: &[&Row<'_>]) -> Result<(), sqlx::Error> {
    let unplaced: Vec<&Row<'_>> = offered
        .chunk_by(|one, other| one.event.org_id == other.event.org_id && one.event.event_id == other.event.event_id)
        .filter(|alike| alike.len() > 1 || alike.iter().any(|row| row.may_repeat || !tells_its_day(row)))
        .flatten()
        .copied()
        .collect();
    if unplaced.is_empty() {
        return Ok(());
    }
    // Who has the id already keeps it, also where nobody had to be told so. Whoever names it makes it be kept for
    // longer.
    let query = sqlx::query(
        "INSERT INTO event_places AS p (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at)
         SELECT DISTINCT ON (t.org_id, t.event_id) t.org_id, t.event_id, COALESCE(e.log_epoch, t.log_epoch),
                COALESCE(e.log_partition, t.log_partition), COALESCE(e.log_offset, t.log_offset),
                GREATEST(e.accepted_at, 'epoch'::timestamptz + t.newest_ms * interval '1 millisecond')
         FROM (SELECT *, max(accepted_ms) OVER (PARTITION BY org_id, event_id) AS newest_ms
               FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::integer[], $5::bigint[], $6::bigint[]) WITH ORDINALITY
                    AS named (org_id, event_id, log_epoch, log_partition, log_offset, accepted_ms, nth)) AS t
         LEFT JOIN events e ON e.org_id = t.org_id AND e.event_id = t.event_id
         ORDER BY t.org_id, t.event_id, t.nth
         ON CONFLICT (org_id, event_id) DO UPDATE SET accepted_at = EXCLUDED.accepted_at WHERE p.accepted_at < EXCLUDED.accepted_at",
    );
    bind(query, &unplaced).execute(connection).await?;
    Ok(())
}

/// Gives ids that nobody had when they were looked for to the records that a decision is taken on. `false`: somebody
/// has one of them by now, and the decision no longer holds.
pub(super) async fn claim_unknown(connection: &mut PgConnection, decided: &[&Row<'_>]) -> Result<bool, sqlx::Error> {
    if decided.is_empty() {
        return Ok(true);
    }
    let query = sqlx::query(
        "INSERT INTO event_places (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at)
         SELECT DISTINCT ON (org_id, event_id) org_id, event_id, log_epoch, log_partition, log_offset,
                'epoch'::timestamptz + max(accepted_ms) OVER (PARTITION BY org_id, event_id) * interval '1 millisecond'
         FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::integer[], $5::bigint[], $6::bigint[]) WITH ORDINALITY
              AS t (org_id, event_id, log_epoch, log_partition, log_offset, accepted_ms, nth)
         ORDER BY org_id, event_id, nth
         ON CONFLICT (org_id, event_id) DO NOTHING",
    );
    let claimed = bind(query, decided).execute(connection).await?.rows_affected();
    let ids: BTreeSet<_> = decided.iter().map(|row| (row.event.org_id, row.event.event_id)).collect();
    Ok(claimed == ids.len() as u64)
}

/// Some of these were there before: where another record has the id, that is written down, for as long as any of the
/// two is read.
pub(super) async fn note_twins(connection: &mut PgConnection, offered: &[&Row<'_>]) -> Result<(), sqlx::Error> {
    let query = sqlx::query(
        "INSERT INTO event_places (org_id, event_id, log_epoch, log_partition, log_offset, accepted_at)
         SELECT e.org_id, e.event_id, e.log_epoch, e.log_partition, e.log_offset,
                GREATEST(e.accepted_at, 'epoch'::timestamptz + t.accepted_ms * interval '1 millisecond')
         FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::integer[], $5::bigint[], $6::bigint[])
              AS t (org_id, event_id, log_epoch, log_partition, log_offset, accepted_ms)
         JOIN events e ON e.org_id = t.org_id AND e.event_id = t.event_id
         WHERE (e.log_epoch, e.log_partition, e.log_offset) <> (t.log_epoch, t.log_partition, t.log_offset)
         ORDER BY e.org_id, e.event_id
         ON CONFLICT (org_id, event_id) DO NOTHING",
    );
    bind(query, offered).execute(connection).await?;
    Ok(())
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bind<'q>(query: Query<'q>, rows: &[&Row<'_>]) -> Query<'q> {
    query
        .bind(rows.iter().map(|row| row.event.org_id.as_uuid()).collect::<Vec<Uuid>>())
        .bind(rows.iter().map(|row| row.event.event_id.as_uuid()).collect::<Vec<Uuid>>())
        .bind(rows.iter().map(|row| row.log_epoch).collect::<Vec<i32>>())
        .bind(rows.iter().map(|row| row.partition).collect::<Vec<i32>>())
        .bind(rows.iter().map(|row| row.offset).collect::<Vec<i64>>())
        .bind(rows.iter().map(|row| row.accepted_at_ms).collect::<Vec<i64>>())
}

/// Whether the id was made on the day of its acceptance (UTC): parts are made of whole days, so every record that names
/// it and says so too lies in the same part.
fn tells_its_day(row: &Row<'_>) -> bool {
    let day = |ms: i64| ms.div_euclid(DAY_MS);
    row.event.event_id.made_at_ms().is_some_and(|made_at_ms| day(made_at_ms) == day(row.accepted_at_ms))
}
