//! Duplicate decisions of a chunk. Reads the stored decisions on its event ids and the owners of its dedup keys, has
//! `duplicates` decide the rest, and stores new decisions in `event_ids` and `dedup_keys`. One statement reads, and one
//! writes.
//!
//! A row of `event_ids` names the record that owns an id and the event that the id resolves to. Every other record that
//! names the id is a duplicate. An id that ingest makes needs no row: the index of its time partition keeps it unique,
//! and the time inside the id (UUIDv7) says which time partition that is. Rows are needed for ids that a producer
//! chose, ids made just before midnight, ids that two records name, and duplicates.
//!
//! Rows are decisions: a rebuild and a replay read them and write none. A row is kept until the newest record that
//! named the id is below the retention floor; from then on every reading of the log skips all records of the id.
//!
//! Several writers may decide on one id or key at once, if its records are in different partitions. Each writer stores
//! a decision only if no other one was stored meanwhile. Else it rolls its transaction back and decides again, and
//! reads every id of the chunk ([`Lookup::All`]).

use std::collections::BTreeMap;

use schemas::ids::{EventId, OrgId};
use schemas::position::LogPosition;
use schemas::records::DedupKind;
use schemas::unix_time::{from_millis, to_millis};
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::outcome::TransactionError;
use crate::columns::column;
use crate::projector::duplicates::{self, Decisions, Key, KeyOwner};
use crate::projector::event_row::EventRow;

const DAY_MS: i64 = 86_400_000;

/// Which ids of a chunk are read from the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    /// Ids that other records may name, and ids of events with a dedup key. Without such ids there is no statement.
    Expected,
    All,
}

#[derive(Debug, Default)]
pub(super) struct DecisionCounts {
    /// Ids that are no duplicates and that the view does not have, as far as they were read.
    pub(super) new_events: u64,
    /// Records that were decided to be duplicates in this chunk.
    pub(super) new_duplicates: u64,
}

type Id = (OrgId, EventId);

/// An event id of the chunk.
#[derive(Debug)]
struct IdState {
    /// Position of the first record of the id in the chunk.
    first: LogPosition,
    /// Append time of the newest record of the id in the chunk, milliseconds since the Unix epoch.
    newest_ms: i64,
    records: u64,
    has_key: bool,
    /// The id itself does not say which record owns it.
    needs_row: bool,
    /// The row of `event_ids`.
    stored: Option<IdOwner>,
    /// The event that the view shows under the id. Read only if [`IdState::may_be_shown`].
    shown: Option<IdOwner>,
    duplicate_of: Option<EventId>,
}

/// The record that owns an id.
#[derive(Debug, Clone, Copy)]
struct IdOwner {
    position: LogPosition,
    canonical_id: EventId,
    /// Append time of the newest record that names the id, as far as stored, milliseconds since the Unix epoch.
    newest_ms: i64,
}

/// Sets `duplicate_of` of the rows and stores the decisions. An id that was decided before keeps its decision.
pub(super) async fn decide(
    connection: &mut PgConnection,
    rows: &mut [EventRow<'_>],
    lookup: Lookup,
) -> Result<DecisionCounts, TransactionError> {
    let mut ids = id_states(rows);
    let is_asked = |ids: &BTreeMap<Id, IdState>, row: &EventRow<'_>| {
        lookup == Lookup::All || ids.get(&row.id()).is_some_and(|id| id.has_key || id.needs_row)
    };
    let mut asked: Vec<&mut EventRow<'_>> = rows.iter_mut().filter(|row| is_asked(&ids, row)).collect();
    if !asked.is_empty() {
        let keys: Vec<Key> = duplicates::keys(&asked).into_iter().collect();
        let key_owners = read(connection, &mut ids, &keys, lookup).await?;
        let decided: Decisions = ids.iter().filter_map(|(id, state)| Some((*id, state.decision(*id)?))).collect();
        let new_key_owners = duplicates::decide(&mut asked, &key_owners, &decided);
        for row in asked {
            if let Some(state) = ids.get_mut(&row.id()) {
                state.duplicate_of = row.duplicate_of;
            }
        }
        write(connection, &ids, &new_key_owners).await?;
    }
    let undecided = || ids.values().filter(|state| state.stored.is_none());
    let new_events = undecided().filter(|state| state.shown.is_none() && state.duplicate_of.is_none()).count() as u64;
    let new_duplicates = undecided().filter(|state| state.duplicate_of.is_some()).map(|state| state.records).sum();
    Ok(DecisionCounts { new_events, new_duplicates })
}

/// The ids of `rows`. `rows` are in the order in which they were read.
fn id_states(rows: &[EventRow<'_>]) -> BTreeMap<Id, IdState> {
    let mut ids: BTreeMap<Id, IdState> = BTreeMap::new();
    for row in rows {
        let state = ids.entry(row.id()).or_insert(IdState {
            first: row.position,
            newest_ms: row.accepted_at_ms,
            records: 0,
            has_key: false,
            needs_row: false,
            stored: None,
            shown: None,
            duplicate_of: None,
        });
        state.records += 1;
        state.newest_ms = state.newest_ms.max(row.accepted_at_ms);
        state.has_key |= row.event.dedup.is_some();
        state.needs_row |= row.may_repeat || state.records > 1 || !is_of_its_day(row);
    }
    ids
}

/// Whether the id was made on the day of its acceptance (UTC). Time partitions consist of whole days, so all records of
/// the id that were accepted on its day are in one time partition.
fn is_of_its_day(row: &EventRow<'_>) -> bool {
    let day = |ms: i64| ms.div_euclid(DAY_MS);
    row.event.event_id.made_at_ms().is_some_and(|made_at_ms| day(made_at_ms) == day(row.accepted_at_ms))
}

impl IdState {
    /// Ids that ingest made come once, so only the other ids are read from the view.
    fn may_be_shown(&self, lookup: Lookup) -> bool {
        self.needs_row || lookup == Lookup::All
    }

    /// The earlier decision, if any.
    fn decision(&self, (_, id): Id) -> Option<Option<EventId>> {
        self.stored.or(self.shown).map(|owner| (owner.canonical_id != id).then_some(owner.canonical_id))
    }

    /// The row of `event_ids` to write, if one is needed and not stored.
    fn row(&self, (org_id, event_id): Id) -> Option<IdRow> {
        let canonical_id = self.duplicate_of.unwrap_or(event_id);
        let owner = self.stored.or(self.shown);
        let is_needed = match self.stored {
            Some(stored) => stored.newest_ms < self.newest_ms,
            None => {
                let is_shown_from_another_record = self.shown.is_some_and(|shown| shown.position != self.first);
                self.needs_row || canonical_id != event_id || is_shown_from_another_record
            }
        };
        is_needed.then(|| IdRow {
            org_id,
            event_id,
            canonical_id,
            owner: owner.map_or(self.first, |owner| owner.position),
            newest_ms: owner.map_or(self.newest_ms, |owner| owner.newest_ms.max(self.newest_ms)),
        })
    }
}

/// A row of [`read`]: `(kind, number of the id or key that was asked for, id, epoch, partition, offset, time, end of
/// the window, body hash)`.
type FoundRow =
    (String, i64, Uuid, Option<i32>, Option<i32>, Option<i64>, OffsetDateTime, Option<OffsetDateTime>, Option<String>);

/// Reads the decisions on the ids and the owners of the keys. Owners are locked, so a second writer of the same
/// organization waits. A decision that is committed during that wait is not read here; [`write`] detects it.
async fn read(
    connection: &mut PgConnection,
    ids: &mut BTreeMap<Id, IdState>,
    keys: &[Key],
    lookup: Lookup,
) -> Result<BTreeMap<Key, KeyOwner>, sqlx::Error> {
    let of = |wanted: &dyn Fn(&IdState) -> bool| -> Vec<Id> {
        ids.iter().filter(|(_, state)| wanted(state)).map(|(id, _)| *id).collect()
    };
    let asked = of(&|state| state.has_key || state.may_be_shown(lookup));
    let asked_in_view = of(&|state| state.may_be_shown(lookup));
    // The LIMIT makes the planner use one index lookup per id, whatever it estimates the tables' sizes to be.
    let found: Vec<FoundRow> = sqlx::query_as(
        "WITH owners AS (
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
         SELECT 'key', nth, event_id, NULL, NULL, NULL, accepted_at, expires_at, body_hash FROM owners",
    )
    .bind(column(&asked, |(org, _)| org.as_uuid()))
    .bind(column(&asked, |(_, id)| id.as_uuid()))
    .bind(column(&asked_in_view, |(org, _)| org.as_uuid()))
    .bind(column(&asked_in_view, |(_, id)| id.as_uuid()))
    .bind(column(keys, |(org, ..)| org.as_uuid()))
    .bind(column(keys, |(_, kind, _)| DedupKind::as_str(*kind)))
    .bind(column(keys, |(.., key)| key.as_str()))
    .fetch_all(connection)
    .await?;
    let mut owners = BTreeMap::new();
    for (kind, nth, id, log_epoch, partition, offset, at, expires_at, body_hash) in found {
        let nth = usize::try_from(nth - 1).unwrap_or(usize::MAX);
        let (event_id, at_ms) = (EventId::from_uuid(id), to_millis(at));
        if let (Some(log_epoch), Some(partition), Some(offset)) = (log_epoch, partition, offset) {
            let position = LogPosition { log_epoch, partition, offset };
            let owner = Some(IdOwner { position, canonical_id: event_id, newest_ms: at_ms });
            if kind == "decision" {
                let state = asked.get(nth).and_then(|id| ids.get_mut(id));
                state.into_iter().for_each(|state| state.stored = owner);
            } else {
                let state = asked_in_view.get(nth).and_then(|id| ids.get_mut(id));
                state.into_iter().for_each(|state| state.shown = owner);
            }
        } else if let (Some(key), Some(expires_at), Some(body_hash)) = (keys.get(nth), expires_at, body_hash) {
            let expires_at_ms = to_millis(expires_at);
            owners.insert(key.clone(), KeyOwner { event_id, body_hash, accepted_at_ms: at_ms, expires_at_ms });
        }
    }
    Ok(owners)
}

/// A row of `event_ids`.
struct IdRow {
    org_id: OrgId,
    event_id: EventId,
    canonical_id: EventId,
    owner: LogPosition,
    newest_ms: i64,
}

/// Stores new owners of keys and new decisions. Fails with a conflict if another one was stored meanwhile. Ids are
/// written in their order, so that two writers cannot deadlock.
async fn write(
    connection: &mut PgConnection,
    ids: &BTreeMap<Id, IdState>,
    owners: &BTreeMap<Key, KeyOwner>,
) -> Result<(), TransactionError> {
    let rows: Vec<IdRow> = ids.iter().filter_map(|(id, state)| state.row(*id)).collect();
    let owners: Vec<(&Key, &KeyOwner)> = owners.iter().collect();
    if rows.is_empty() && owners.is_empty() {
        return Ok(());
    }
    let (written_keys, written_ids): (i64, i64) = sqlx::query_as(
        "WITH keys AS (
             INSERT INTO dedup_keys AS k (org_id, kind, key, event_id, body_hash, accepted_at, expires_at)
             SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::timestamptz[],
                                  $7::timestamptz[])
             ON CONFLICT (org_id, kind, key) DO UPDATE
                SET event_id = EXCLUDED.event_id, body_hash = EXCLUDED.body_hash, accepted_at = EXCLUDED.accepted_at,
                    expires_at = EXCLUDED.expires_at
                WHERE k.expires_at <= EXCLUDED.accepted_at
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
    .bind(column(&owners, |((org, ..), _)| org.as_uuid()))
    .bind(column(&owners, |((_, kind, _), _)| DedupKind::as_str(*kind)))
    .bind(column(&owners, |((.., key), _)| key.as_str()))
    .bind(column(&owners, |(_, owner)| owner.event_id.as_uuid()))
    .bind(column(&owners, |(_, owner)| owner.body_hash.as_str()))
    .bind(column(&owners, |(_, owner)| from_millis(owner.accepted_at_ms)))
    .bind(column(&owners, |(_, owner)| from_millis(owner.expires_at_ms)))
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
    if is_written(written_keys, owners.len()) && is_written(written_ids, rows.len()) {
        return Ok(());
    }
    // Another writer took a key or an id between the read and the write: the decision is no longer valid.
    Err(TransactionError::Conflict)
}
