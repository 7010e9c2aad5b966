//! The events of rows of the schedule, once per record.

use std::collections::BTreeMap;

use schemas::ids::OrgId;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::delivery::{OutboundEvent, signed};

/// Partition, log epoch and offset of a record.
pub(super) type Position = (i32, i32, i64);

/// Stores events that are not stored yet. Returns the organization and the payload's bytes of each that was added.
///
/// An event that exists is locked until the transaction ends, so that [`delete_unused`] waits and finds the new row.
pub(super) async fn insert<'a>(
    connection: &mut PgConnection,
    events: impl Iterator<Item = &'a OutboundEvent>,
) -> Result<Vec<(OrgId, i64)>, sqlx::Error> {
    // In this order, so that two transactions lock events in one order.
    let events: BTreeMap<Position, &OutboundEvent> =
        events.map(|event| ((event.partition, event.log_epoch, event.offset), event)).collect();
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let added: Vec<(Uuid, i64)> = sqlx::query_as(
        "WITH stored AS (
             INSERT INTO delivery_events AS e (log_partition, log_epoch, log_offset, org_id, payload, payload_encoding,
                                               traceparent, hops, endpoints_matched)
             SELECT * FROM UNNEST($1::integer[], $2::integer[], $3::bigint[], $4::uuid[], $5::text[], $6::text[],
                                  $7::text[], $8::integer[], $9::integer[])
             ON CONFLICT (log_partition, log_epoch, log_offset) DO UPDATE SET org_id = e.org_id
             RETURNING org_id, octet_length(payload)::bigint AS bytes, xmax = 0 AS is_new
         )
         SELECT org_id, bytes FROM stored WHERE is_new",
    )
    .bind(events.keys().map(|(partition, ..)| *partition).collect::<Vec<_>>())
    .bind(events.keys().map(|(_, log_epoch, _)| *log_epoch).collect::<Vec<_>>())
    .bind(events.keys().map(|(.., offset)| *offset).collect::<Vec<_>>())
    .bind(events.values().map(|event| event.org_id.as_uuid()).collect::<Vec<_>>())
    .bind(events.values().map(|event| event.payload.as_str()).collect::<Vec<_>>())
    .bind(events.values().map(|event| event.payload_encoding.as_deref()).collect::<Vec<_>>())
    .bind(events.values().map(|event| event.traceparent.as_deref()).collect::<Vec<_>>())
    .bind(events.values().map(|event| event.hops).collect::<Vec<_>>())
    .bind(events.values().map(|event| event.endpoints_matched.map(signed)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(added.into_iter().map(|(org_id, bytes)| (OrgId::from_uuid(org_id), bytes)).collect())
}

/// An event to copy from the view, and what the view does not know of it.
#[derive(Debug, Clone)]
pub(super) struct EventToCopy {
    pub org_id: Uuid,
    pub event_id: Uuid,
    /// The position of its row, which need not be the view's.
    pub position: Position,
    pub traceparent: Option<String>,
    pub hops: i32,
    pub endpoints_matched: Option<i32>,
}

/// As [`insert`], for events that the view shows.
pub(super) async fn copy_from_view(
    connection: &mut PgConnection,
    events: impl Iterator<Item = EventToCopy>,
) -> Result<Vec<(OrgId, i64)>, sqlx::Error> {
    let events: BTreeMap<Position, EventToCopy> = events.map(|event| (event.position, event)).collect();
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let added: Vec<(Uuid, i64)> = sqlx::query_as(
        "WITH stored AS (
             INSERT INTO delivery_events AS e (log_partition, log_epoch, log_offset, org_id, payload, payload_encoding,
                                               traceparent, hops, endpoints_matched)
             SELECT t.log_partition, t.log_epoch, t.log_offset, t.org_id, p.payload::text, p.payload_encoding,
                    t.traceparent, t.hops, t.endpoints_matched
             FROM UNNEST($1::integer[], $2::integer[], $3::bigint[], $4::uuid[], $5::uuid[], $6::text[], $7::integer[],
                         $8::integer[]) WITH ORDINALITY
                  AS t (log_partition, log_epoch, log_offset, org_id, event_id, traceparent, hops, endpoints_matched,
                        nth)
             JOIN contract.events p ON p.org_id = t.org_id AND p.event_id = t.event_id
             ORDER BY t.nth
             ON CONFLICT (log_partition, log_epoch, log_offset) DO UPDATE SET org_id = e.org_id
             RETURNING org_id, octet_length(payload)::bigint AS bytes, xmax = 0 AS is_new
         )
         SELECT org_id, bytes FROM stored WHERE is_new",
    )
    .persistent(false)
    .bind(events.keys().map(|(partition, ..)| *partition).collect::<Vec<_>>())
    .bind(events.keys().map(|(_, log_epoch, _)| *log_epoch).collect::<Vec<_>>())
    .bind(events.keys().map(|(.., offset)| *offset).collect::<Vec<_>>())
    .bind(events.values().map(|event| event.org_id).collect::<Vec<_>>())
    .bind(events.values().map(|event| event.event_id).collect::<Vec<_>>())
    .bind(events.values().map(|event| event.traceparent.as_deref()).collect::<Vec<_>>())
    .bind(events.values().map(|event| event.hops).collect::<Vec<_>>())
    .bind(events.values().map(|event| event.endpoints_matched).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(added.into_iter().map(|(org_id, bytes)| (OrgId::from_uuid(org_id), bytes)).collect())
}

/// Deletes the events of these records that have no unfinished row. Returns what [`insert`] returns, of the deleted.
pub(super) async fn delete_unused(
    connection: &mut PgConnection,
    mut positions: Vec<Position>,
) -> Result<Vec<(OrgId, i64)>, sqlx::Error> {
    positions.sort_unstable();
    positions.dedup();
    if positions.is_empty() {
        return Ok(Vec::new());
    }
    let partitions: Vec<i32> = positions.iter().map(|(partition, ..)| *partition).collect();
    let epochs: Vec<i32> = positions.iter().map(|(_, log_epoch, _)| *log_epoch).collect();
    let offsets: Vec<i64> = positions.iter().map(|(.., offset)| *offset).collect();
    // A statement of its own: the next one then sees every row that was added before the lock.
    sqlx::query(
        "SELECT FROM delivery_events WHERE (log_partition, log_epoch, log_offset) IN
             (SELECT * FROM UNNEST($1::integer[], $2::integer[], $3::bigint[]))
         ORDER BY log_partition, log_epoch, log_offset FOR UPDATE",
    )
    .persistent(false)
    .bind(&partitions)
    .bind(&epochs)
    .bind(&offsets)
    .execute(&mut *connection)
    .await?;
    let deleted: Vec<(Uuid, i64)> = sqlx::query_as(
        "DELETE FROM delivery_events e
         USING UNNEST($1::integer[], $2::integer[], $3::bigint[]) AS t (log_partition, log_epoch, log_offset)
         WHERE e.log_partition = t.log_partition AND e.log_epoch = t.log_epoch AND e.log_offset = t.log_offset
               AND NOT EXISTS (SELECT FROM delivery_schedule d
                               WHERE d.log_partition = e.log_partition AND d.log_epoch = e.log_epoch
                                     AND d.log_offset = e.log_offset AND d.finished_at IS NULL)
         RETURNING e.org_id, octet_length(e.payload)::bigint",
    )
    .persistent(false)
    .bind(partitions)
    .bind(epochs)
    .bind(offsets)
    .fetch_all(connection)
    .await?;
    Ok(deleted.into_iter().map(|(org_id, bytes)| (OrgId::from_uuid(org_id), bytes)).collect())
}
