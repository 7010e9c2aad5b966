//! Duplicate decisions of a batch: reads what is known about its event ids and dedup keys, has `duplicates` decide the
//! rest, and stores the outcome in `event_ids` and `dedup_keys`. One statement reads, and one writes.
//!
//! A row of `event_ids` names the record that owns an id and the event that the id resolves to. Every other record that
//! names the id is a duplicate. An id that ingest makes needs no row: it is unique within its time partition by that
//! partition's index, and tells by its own time (UUIDv7) which partition that is. Rows are needed for ids that a
//! producer chose, ids made just before midnight, ids that two records name, and duplicates.
//!
//! Rows are decisions: a rebuild and a replay go by them and write none. They are kept until the newest record that
//! named the id is below the retention floor; no reading of the log takes any of its records then.
//!
//! Several writers may decide on one id or key at once, where its records are in different partitions. Each writes what
//! it goes by, and only if nothing else is stored by then; else the transaction is rolled back and decided again, this
//! time looking every id of the batch up ([`Lookup::All`]).

use std::collections::BTreeMap;

use schemas::ids::{EventId, OrgId};
use schemas::position::Place as LogPosition;
use schemas::records::DedupKind;
use schemas::unix_time::{from_millis, to_millis};
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Failure, column};
use crate::projector::duplicates::{self, Decisions, Holder, Key};
use crate::projector::event_row::EventRow;

const DAY_MS: i64 = 86_400_000;

/// Which ids of a batch are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    /// Those that other records may name, and those of events with a dedup key. Costs nothing where there are none.
    Expected,
    All,
}

/// What was decided about a batch.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// Ids that the view is to get and does not have, as far as they were looked up.
    pub(super) new_events: u64,
    /// Records that were found to be duplicates and were not known as such.
    pub(super) new_duplicates: u64,
}

type Id = (OrgId, EventId);

/// An id that records of the batch name.
#[derive(Debug)]
struct Named {
    /// The first of these records.
    first: LogPosition,
    /// Append time of the newest one, milliseconds since the Unix epoch.
    newest_ms: i64,
    records: u64,
    has_key: bool,
    /// The id itself does not say which record owns it.
    needs_row: bool,
    /// The row of `event_ids`.
    stored: Option<Owned>,
    /// The event that the view shows under the id. Looked up only where [`Named::may_be_shown`].
    shown: Option<Owned>,
    duplicate_of: Option<EventId>,
}

/// The record that owns an id.
#[derive(Debug, Clone, Copy)]
struct Owned {
    position: LogPosition,
    canonical_id: EventId,
    /// Append time of the newest record that is known to name the id, milliseconds since the Unix epoch.
    newest_ms: i64,
}

/// Sets `duplicate_of` of the rows and stores the decisions. An id that was decided before keeps its decision.
pub(super) async fn decide(
    connection: &mut PgConnection,
    rows: &mut [EventRow<'_>],
    lookup: Lookup,
) -> Result<Decided, Failure> {
    let mut ids = named(rows);
    let is_asked = |ids: &BTreeMap<Id, Named>, row: &EventRow<'_>| {
        lookup == Lookup::All || ids.get(&row.id()).is_some_and(|id| id.has_key || id.needs_row)
    };
    let mut asked: Vec<&mut EventRow<'_>> = rows.iter_mut().filter(|row| is_asked(&ids, row)).collect();
    if !asked.is_empty() {
        let keys: Vec<Key> = duplicates::keys(&asked).into_iter().collect();
        let holders = read(connection, &mut ids, &keys, lookup).await?;
        let known: Decisions = ids.iter().filter_map(|(id, named)| Some((*id, named.decision(*id)?))).collect();
        let new_holders = duplicates::decide(&mut asked, &holders, &known);
        for row in asked {
            if let Some(named) = ids.get_mut(&row.id()) {
                named.duplicate_of = row.duplicate_of;
            }
        }
        write(connection, &ids, &new_holders).await?;
    }
    let unknown = || ids.values().filter(|named| named.stored.is_none());
    let new_events = unknown().filter(|named| named.shown.is_none() && named.duplicate_of.is_none()).count() as u64;
    let new_duplicates = unknown().filter(|named| named.duplicate_of.is_some()).map(|named| named.records).sum();
    Ok(Decided { new_events, new_duplicates })
}

/// The ids that `rows` name. `rows` are in the order in which they were read.
fn named(rows: &[EventRow<'_>]) -> BTreeMap<Id, Named> {
    let mut ids: BTreeMap<Id, Named> = BTreeMap::new();
    for row in rows {
        let named = ids.entry(row.id()).or_insert(Named {
            first: row.position,
            newest_ms: row.accepted_at_ms,
            records: 0,
            has_key: false,
            needs_row: false,
            stored: None,
            shown: None,
            duplicate_of: None,
        });
        named.records += 1;
        named.newest_ms = named.newest_ms.max(row.accepted_at_ms);
        named.has_key |= row.event.dedup.is_some();
        named.needs_row |= row.may_repeat || named.records > 1 || !tells_its_day(row);
    }
    ids
}

/// Whether the id was made on the day of its acceptance (UTC). Time partitions are made of whole days, so every record
/// that names it and is of its day is in the same partition.
fn tells_its_day(row: &EventRow<'_>) -> bool {
    let day = |ms: i64| ms.div_euclid(DAY_MS);
    row.event.event_id.made_at_ms().is_some_and(|made_at_ms| day(made_at_ms) == day(row.accepted_at_ms))
}

impl Named {
    /// Ids made at ingest come once, so the view is asked for the others only.
    fn may_be_shown(&self, lookup: Lookup) -> bool {
        self.needs_row || lookup == Lookup::All
    }

    /// The decision that was taken before, if any.
    fn decision(&self, (_, id): Id) -> Option<Option<EventId>> {
        self.stored.or(self.shown).map(|owned| (owned.canonical_id != id).then_some(owned.canonical_id))
    }

    /// The row of `event_ids` to write, if it is needed and not there.
    fn row(&self, (org_id, event_id): Id) -> Option<IdRow> {
        let canonical_id = self.duplicate_of.unwrap_or(event_id);
        let owned = self.stored.or(self.shown);
        let is_needed = match self.stored {
            Some(stored) => stored.newest_ms < self.newest_ms,
            None => {
                let is_shown_from_elsewhere = self.shown.is_some_and(|shown| shown.position != self.first);
                self.needs_row || canonical_id != event_id || is_shown_from_elsewhere
            }
        };
        is_needed.then(|| IdRow {
            org_id,
            event_id,
            canonical_id,
            owner: owned.map_or(self.first, |owned| owned.position),
            newest_ms: owned.map_or(self.newest_ms, |owned| owned.newest_ms.max(self.newest_ms)),
        })
    }
}

/// One thing that is known: `(what, number of the id or key that was asked for, id, epoch, partition, offset, time, end
/// of the window, body hash)`.
type Fact =
    (String, i64, Uuid, Option<i32>, Option<i32>, Option<i64>, OffsetDateTime, Option<OffsetDateTime>, Option<String>);

/// Reads what is known about the ids, and who holds the keys. Holders are locked: a second writer of the same
/// organization must wait. A decision that commits while this one waits is not seen; writing then meets it.
async fn read(
    connection: &mut PgConnection,
    ids: &mut BTreeMap<Id, Named>,
    keys: &[Key],
    lookup: Lookup,
) -> Result<BTreeMap<Key, Holder>, sqlx::Error> {
    let of = |wanted: &dyn Fn(&Named) -> bool| -> Vec<Id> {
        ids.iter().filter(|(_, named)| wanted(named)).map(|(id, _)| *id).collect()
    };
    let asked = of(&|named| named.has_key || named.may_be_shown(lookup));
    let asked_of_view = of(&|named| named.may_be_shown(lookup));
    // The LIMIT keeps each look-up a probe of its own, whatever the planner believes of the tables' sizes.
    let facts: Vec<Fact> = sqlx::query_as(
        "WITH held AS (
             SELECT asked.nth, k.event_id, k.accepted_at, k.expires_at, k.body_hash
             FROM UNNEST($5::uuid[], $6::text[], $7::text[]) WITH ORDINALITY AS asked (org_id, kind, key, nth)
             JOIN dedup_keys k USING (org_id, kind, key)
             ORDER BY k.org_id, k.kind, k.key
             FOR UPDATE OF k
         )
         SELECT 'decision', asked.nth, i.canonical_id, i.log_epoch, i.log_partition, i.log_offset, i.newest_at,
                NULL::timestamptz, NULL::text
         FROM UNNEST($1::uuid[], $2::uuid[]) WITH ORDINALITY AS asked (org_id, event_id, nth)
         CROSS JOIN LATERAL (SELECT * FROM event_ids i
                             WHERE i.org_id = asked.org_id AND i.event_id = asked.event_id LIMIT 1) AS i
         UNION ALL
         SELECT 'event', asked.nth, e.event_id, e.log_epoch, e.log_partition, e.log_offset, e.accepted_at, NULL, NULL
         FROM UNNEST($3::uuid[], $4::uuid[]) WITH ORDINALITY AS asked (org_id, event_id, nth)
         CROSS JOIN LATERAL (SELECT event_id, log_epoch, log_partition, log_offset, accepted_at FROM events e
                             WHERE e.org_id = asked.org_id AND e.event_id = asked.event_id LIMIT 1) AS e
         UNION ALL
         SELECT 'key', nth, event_id, NULL, NULL, NULL, accepted_at, expires_at, body_hash FROM held",
    )
    .bind(column(&asked, |(org, _)| org.as_uuid()))
    .bind(column(&asked, |(_, id)| id.as_uuid()))
    .bind(column(&asked_of_view, |(org, _)| org.as_uuid()))
    .bind(column(&asked_of_view, |(_, id)| id.as_uuid()))
    .bind(column(keys, |(org, ..)| org.as_uuid()))
    .bind(column(keys, |(_, kind, _)| DedupKind::as_str(*kind)))
    .bind(column(keys, |(.., key)| key.as_str()))
    .fetch_all(connection)
    .await?;
    let mut holders = BTreeMap::new();
    for (what, nth, id, log_epoch, partition, offset, at, expires_at, body_hash) in facts {
        let nth = usize::try_from(nth - 1).unwrap_or(usize::MAX);
        let (event_id, at_ms) = (EventId::from_uuid(id), to_millis(at));
        if let (Some(log_epoch), Some(partition), Some(offset)) = (log_epoch, partition, offset) {
            let position = LogPosition { log_epoch, partition, offset };
            let owned = Some(Owned { position, canonical_id: event_id, newest_ms: at_ms });
            if what == "decision" {
                let named = asked.get(nth).and_then(|id| ids.get_mut(id));
                named.into_iter().for_each(|named| named.stored = owned);
            } else {
                let named = asked_of_view.get(nth).and_then(|id| ids.get_mut(id));
                named.into_iter().for_each(|named| named.shown = owned);
            }
        } else if let (Some(key), Some(expires_at), Some(body_hash)) = (keys.get(nth), expires_at, body_hash) {
            let expires_at_ms = to_millis(expires_at);
            holders.insert(key.clone(), Holder { event_id, body_hash, accepted_at_ms: at_ms, expires_at_ms });
        }
    }
    Ok(holders)
}

/// A row of `event_ids`.
struct IdRow {
    org_id: OrgId,
    event_id: EventId,
    canonical_id: EventId,
    owner: LogPosition,
    newest_ms: i64,
}

/// Stores new holders of keys and the decisions, each only where nothing else is stored. Ids are written in their
/// order, so that two writers cannot block each other.
async fn write(
    connection: &mut PgConnection,
    ids: &BTreeMap<Id, Named>,
    holders: &BTreeMap<Key, Holder>,
) -> Result<(), Failure> {
    let rows: Vec<IdRow> = ids.iter().filter_map(|(id, named)| named.row(*id)).collect();
    let holders: Vec<(&Key, &Holder)> = holders.iter().collect();
    if rows.is_empty() && holders.is_empty() {
        return Ok(());
    }
    let (written_keys, written_ids): (i64, i64) = sqlx::query_as(
        "WITH keys AS (
             INSERT INTO dedup_keys AS held (org_id, kind, key, event_id, body_hash, accepted_at, expires_at)
             SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::timestamptz[],
                                  $7::timestamptz[])
             ON CONFLICT (org_id, kind, key) DO UPDATE
                SET event_id = EXCLUDED.event_id, body_hash = EXCLUDED.body_hash, accepted_at = EXCLUDED.accepted_at,
                    expires_at = EXCLUDED.expires_at
                WHERE held.expires_at <= EXCLUDED.accepted_at
             RETURNING 1
         ), ids AS (
             INSERT INTO event_ids AS i (org_id, event_id, canonical_id, log_epoch, log_partition, log_offset,
                                         newest_at)
             SELECT * FROM UNNEST($8::uuid[], $9::uuid[], $10::uuid[], $11::integer[], $12::integer[], $13::bigint[],
                                  $14::timestamptz[])
             ON CONFLICT (org_id, event_id) DO UPDATE SET newest_at = GREATEST(i.newest_at, EXCLUDED.newest_at)
                WHERE (i.canonical_id, i.log_epoch, i.log_partition, i.log_offset)
                      = (EXCLUDED.canonical_id, EXCLUDED.log_epoch, EXCLUDED.log_partition, EXCLUDED.log_offset)
             RETURNING 1
         )
         SELECT (SELECT count(*) FROM keys), (SELECT count(*) FROM ids)",
    )
    .bind(column(&holders, |((org, ..), _)| org.as_uuid()))
    .bind(column(&holders, |((_, kind, _), _)| DedupKind::as_str(*kind)))
    .bind(column(&holders, |((.., key), _)| key.as_str()))
    .bind(column(&holders, |(_, holder)| holder.event_id.as_uuid()))
    .bind(column(&holders, |(_, holder)| holder.body_hash.as_str()))
    .bind(column(&holders, |(_, holder)| from_millis(holder.accepted_at_ms)))
    .bind(column(&holders, |(_, holder)| from_millis(holder.expires_at_ms)))
    .bind(column(&rows, |row| row.org_id.as_uuid()))
    .bind(column(&rows, |row| row.event_id.as_uuid()))
    .bind(column(&rows, |row| row.canonical_id.as_uuid()))
    .bind(column(&rows, |row| row.owner.log_epoch))
    .bind(column(&rows, |row| row.owner.partition))
    .bind(column(&rows, |row| row.owner.offset))
    .bind(column(&rows, |row| from_millis(row.newest_ms)))
    .fetch_one(connection)
    .await?;
    let is_written = |written: i64, wanted: usize| usize::try_from(written).is_ok_and(|written| written == wanted);
    if is_written(written_keys, holders.len()) && is_written(written_ids, rows.len()) {
        return Ok(());
    }
    // Another writer took a key or an id between reading and writing: the decision no longer holds.
    Err(Failure::Raced)
}
