//! Dedup keys and verdicts: reads what holds the keys of a batch, has `duplicates` decide, and stores the decision.

use std::collections::{BTreeMap, BTreeSet};

use schemas::ids::{EventId, OrgId};
use schemas::records::{DedupKind, Event};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::events::Row;
use super::{Failure, Reading, places};
use crate::metrics::METRICS;
use crate::projector::duplicates::{self, Decision, Holder, Key, Settled};

/// Index of each row that is a duplicate, and its original. Costs nothing where no event names a key or brings its own
/// id. What was decided of an id before stays so, also for a record of that id without a key; on a first reading the
/// rest is decided.
pub(super) async fn settle(
    connection: &mut PgConnection,
    rows: &[Row<'_>],
    reading: &Reading,
) -> Result<BTreeMap<usize, EventId>, Failure> {
    let name = |row: &Row<'_>| (row.event.org_id, row.event.event_id);
    // Also of a record of ingest, should somebody have copied its id: of one id in a batch the first that was read is
    // what counts.
    let repeating: BTreeSet<(OrgId, EventId)> = rows.iter().filter(|row| row.may_repeat).map(name).collect();
    let is_asked = |row: &Row<'_>| row.event.dedup.is_some() || repeating.contains(&name(row));
    let asked: Vec<usize> = rows.iter().enumerate().filter(|(_, row)| is_asked(row)).map(|(index, _)| index).collect();
    if asked.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut duplicates = verdicts(connection, rows, &asked).await?;
    if matches!(reading, Reading::Again) {
        return Ok(duplicates);
    }
    keep_verdicts(connection, duplicates.keys().filter_map(|index| rows.get(*index))).await?;
    let open: Vec<usize> = asked.into_iter().filter(|index| !duplicates.contains_key(index)).collect();
    if open.iter().filter_map(|index| rows.get(*index)).all(|row| row.event.dedup.is_none()) {
        return Ok(duplicates);
    }
    let timed: Vec<(&Event, i64)> =
        open.iter().filter_map(|index| rows.get(*index)).map(|row| (row.event, row.accepted_at_ms)).collect();
    let keys: Vec<Key> = duplicates::keys(timed.iter().map(|(event, _)| *event)).into_iter().collect();
    let known = holders(connection, &keys).await?;
    let shown = shown(connection, open.iter().filter_map(|index| rows.get(*index))).await?;
    let decision = duplicates::decide(&timed, &known, &shown);
    store_holders(connection, &decision).await?;
    // Together with their ids: a writer of another partition that meets one of these now must see what was decided
    // here, or it makes an event of a duplicate, whose acknowledgements then go to the original, or a duplicate of what
    // holds a key.
    let unknown = |row: &&Row<'_>| repeating.contains(&name(row)) && !shown.contains_key(&name(row));
    let decided_first: Vec<&Row<'_>> = open.iter().filter_map(|index| rows.get(*index)).filter(unknown).collect();
    if !places::claim_unknown(connection, &decided_first).await? {
        return Err(Failure::Raced);
    }
    let decided: BTreeMap<usize, EventId> =
        decision.duplicates.into_iter().filter_map(|(nth, original)| Some((*open.get(nth)?, original))).collect();
    store_verdicts(connection, rows, &decided).await?;
    duplicates.extend(decided);
    Ok(duplicates)
}

/// What was decided of these rows before.
async fn verdicts(
    connection: &mut PgConnection,
    rows: &[Row<'_>],
    asked: &[usize],
) -> Result<BTreeMap<usize, EventId>, sqlx::Error> {
    let events = || asked.iter().filter_map(|index| rows.get(*index)).map(|row| row.event);
    let found: Vec<(i64, Uuid)> = sqlx::query_as(
        "SELECT asked.ordinal, v.original_id FROM UNNEST($1::uuid[], $2::uuid[]) WITH ORDINALITY AS asked (org_id, event_id, ordinal)
         JOIN verdicts v USING (org_id, event_id)",
    )
    .bind(events().map(|event| event.org_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(events().map(|event| event.event_id.as_uuid()).collect::<Vec<Uuid>>())
    .fetch_all(connection)
    .await?;
    let duplicate =
        |(ordinal, original)| Some((*asked.get(usize::try_from(ordinal - 1).ok()?)?, EventId::from_uuid(original)));
    Ok(found.into_iter().filter_map(duplicate).collect())
}

/// A verdict is kept until the newest record that it was found for is below the floor.
async fn keep_verdicts<'a>(
    connection: &mut PgConnection,
    found: impl Iterator<Item = &'a Row<'a>>,
) -> Result<(), sqlx::Error> {
    let found: Vec<&Row<'_>> = found.filter(|row| row.may_repeat).collect();
    if found.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE verdicts v SET accepted_at = t.accepted_at
         FROM (SELECT org_id, event_id, max('epoch'::timestamptz + accepted_ms * interval '1 millisecond') AS accepted_at
               FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[]) AS named (org_id, event_id, accepted_ms) GROUP BY org_id, event_id) AS t
         WHERE v.org_id = t.org_id AND v.event_id = t.event_id AND v.accepted_at < t.accepted_at",
    )
    .bind(found.iter().map(|row| row.event.org_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(found.iter().map(|row| row.event.event_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(found.iter().map(|row| row.accepted_at_ms).collect::<Vec<i64>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Which of these are in the view already, under the same id from another record. Asks only where a producer chose the
/// id or a record was written again: the ids made at ingest come once.
async fn shown<'a>(
    connection: &mut PgConnection,
    rows: impl Iterator<Item = &'a Row<'a>>,
) -> Result<Settled, sqlx::Error> {
    let may_repeat = rows.filter(|row| row.may_repeat);
    let (orgs, ids): (Vec<Uuid>, Vec<Uuid>) =
        may_repeat.map(|row| (row.event.org_id.as_uuid(), row.event.event_id.as_uuid())).unzip();
    if orgs.is_empty() {
        return Ok(Settled::new());
    }
    let found: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "SELECT asked.org_id, asked.event_id FROM UNNEST($1::uuid[], $2::uuid[]) AS asked (org_id, event_id)
         WHERE EXISTS (SELECT FROM events e WHERE e.org_id = asked.org_id AND e.event_id = asked.event_id)
               OR EXISTS (SELECT FROM event_places p WHERE p.org_id = asked.org_id AND p.event_id = asked.event_id)",
    )
    .bind(orgs)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().map(|(org, id)| ((OrgId::from_uuid(org), EventId::from_uuid(id)), None)).collect())
}

/// What holds the keys now. Locked: a second writer of the same organization (only possible after partitions were
/// added) must wait.
async fn holders(connection: &mut PgConnection, keys: &[Key]) -> Result<BTreeMap<Key, Holder>, sqlx::Error> {
    let (orgs, kinds, names) = columns(keys.iter());
    let rows: Vec<(i64, Uuid, String, i64, i64)> = sqlx::query_as(
        "SELECT asked.ordinal, held.event_id, held.body_hash,
                (extract(epoch FROM held.accepted_at) * 1000)::bigint, (extract(epoch FROM held.expires_at) * 1000)::bigint
         FROM UNNEST($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY AS asked (org_id, kind, key, ordinal)
         JOIN dedup_keys held USING (org_id, kind, key)
         ORDER BY held.org_id, held.kind, held.key
         FOR UPDATE OF held",
    )
    .bind(orgs)
    .bind(kinds)
    .bind(names)
    .fetch_all(connection)
    .await?;
    let mut known = BTreeMap::new();
    for (ordinal, event_id, body_hash, accepted_at_ms, expires_at_ms) in rows {
        let key = usize::try_from(ordinal - 1).ok().and_then(|index| keys.get(index));
        if let Some(key) = key {
            known.insert(
                key.clone(),
                Holder { event_id: EventId::from_uuid(event_id), body_hash, accepted_at_ms, expires_at_ms },
            );
        }
    }
    Ok(known)
}

async fn store_holders(connection: &mut PgConnection, decision: &Decision) -> Result<(), Failure> {
    let (orgs, kinds, names) = columns(decision.holders.keys());
    if orgs.is_empty() {
        return Ok(());
    }
    let holders = || decision.holders.values();
    let stored = sqlx::query(
        "INSERT INTO dedup_keys AS held (org_id, kind, key, event_id, body_hash, accepted_at, expires_at)
         SELECT org_id, kind, key, event_id, body_hash,
                'epoch'::timestamptz + accepted_ms * interval '1 millisecond', 'epoch'::timestamptz + expires_ms * interval '1 millisecond'
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::bigint[], $7::bigint[])
              AS t (org_id, kind, key, event_id, body_hash, accepted_ms, expires_ms)
         ON CONFLICT (org_id, kind, key) DO UPDATE
            SET event_id = EXCLUDED.event_id, body_hash = EXCLUDED.body_hash, accepted_at = EXCLUDED.accepted_at, expires_at = EXCLUDED.expires_at
            WHERE held.expires_at <= EXCLUDED.accepted_at",
    )
    .bind(&orgs)
    .bind(kinds)
    .bind(names)
    .bind(holders().map(|holder| holder.event_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(holders().map(|holder| holder.body_hash.as_str()).collect::<Vec<&str>>())
    .bind(holders().map(|holder| holder.accepted_at_ms).collect::<Vec<i64>>())
    .bind(holders().map(|holder| holder.expires_at_ms).collect::<Vec<i64>>())
    .execute(connection)
    .await?;
    if stored.rows_affected() < orgs.len() as u64 {
        // Another partition's writer took a key between our look and our write: the decision no longer holds.
        return Err(Failure::Raced);
    }
    Ok(())
}

async fn store_verdicts(
    connection: &mut PgConnection,
    rows: &[Row<'_>],
    decided: &BTreeMap<usize, EventId>,
) -> Result<(), sqlx::Error> {
    if decided.is_empty() {
        return Ok(());
    }
    let found: Vec<(&Row<'_>, Uuid)> =
        decided.iter().filter_map(|(index, original)| Some((rows.get(*index)?, original.as_uuid()))).collect();
    sqlx::query(
        "INSERT INTO verdicts (org_id, event_id, original_id, log_epoch, log_partition, log_offset, accepted_at)
         SELECT org_id, event_id, original_id, log_epoch, log_partition, log_offset,
                'epoch'::timestamptz + max(accepted_ms) OVER (PARTITION BY org_id, event_id) * interval '1 millisecond'
         FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::integer[], $6::bigint[], $7::bigint[]) WITH ORDINALITY
              AS t (org_id, event_id, original_id, log_epoch, log_partition, log_offset, accepted_ms, nth)
         ORDER BY org_id, event_id, nth
         ON CONFLICT (org_id, event_id) DO NOTHING",
    )
    .bind(found.iter().map(|(row, _)| row.event.org_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(found.iter().map(|(row, _)| row.event.event_id.as_uuid()).collect::<Vec<Uuid>>())
    .bind(found.iter().map(|(_, original)| *original).collect::<Vec<Uuid>>())
    .bind(found.iter().map(|(row, _)| row.log_epoch).collect::<Vec<i32>>())
    .bind(found.iter().map(|(row, _)| row.partition).collect::<Vec<i32>>())
    .bind(found.iter().map(|(row, _)| row.offset).collect::<Vec<i64>>())
    .bind(found.iter().map(|(row, _)| row.accepted_at_ms).collect::<Vec<i64>>())
    .execute(connection)
    .await?;
    METRICS.duplicates.inc_by(found.len() as u64);
    Ok(())
}

/// Keys as one array per column, in the order given.
fn columns<'a>(keys: impl Iterator<Item = &'a Key>) -> (Vec<Uuid>, Vec<&'static str>, Vec<&'a str>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for (org, kind, key) in keys {
        columns.0.push(org.as_uuid());
        columns.1.push(DedupKind::as_str(*kind));
        columns.2.push(key.as_str());
    }
    columns
}
