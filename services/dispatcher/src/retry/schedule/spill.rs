//! Writes the rows of spilled deliveries.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::delivery::{Delivery, signed};

/// A spilled delivery: a row to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewRow {
    pub delivery: Delivery,
    /// Which of the two tables gets the row.
    pub waits_for: WaitsFor,
}

/// What a row waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// The duplicate decision on its event: a row of `deliveries_awaiting_dedup`.
    Dedup,
    /// An attempt: a pending row of `delivery_schedule`.
    Attempt {
        /// Attempts made so far.
        attempts: u32,
        /// When the row can be claimed.
        due_after: Duration,
        /// Set while an attempt is in flight.
        lease: Option<Uuid>,
    },
}

impl NewRow {
    /// Approximate size in a statement, bytes.
    pub(crate) fn size(&self) -> usize {
        self.delivery.event.size() + 128
    }

    /// The lease of the attempt in flight.
    pub(crate) fn lease(&self) -> Option<Uuid> {
        match self.waits_for {
            WaitsFor::Attempt { lease, .. } => lease,
            WaitsFor::Dedup => None,
        }
    }
}

/// Writes rows. A row that exists already is not changed: a commit whose outcome was unknown is repeated.
pub(crate) async fn insert(connection: &mut PgConnection, rows: &[NewRow]) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(rows);
    sqlx::query(
        "WITH rows AS (
             SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::timestamptz[],
                                  $7::text[], $8::text[], $9::integer[], $10::integer[], $11::bigint[],
                                  $12::integer[], $13::double precision[], $14::uuid[], $15::text[], $16::integer[])
                  AS t (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, payload, traceparent,
                        log_epoch, log_partition, log_offset, attempts, due_after, lease_id, payload_encoding,
                        endpoints_matched)
         ), pending AS (
             INSERT INTO delivery_schedule (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at,
                                            payload, payload_encoding, traceparent, log_epoch, log_partition,
                                            log_offset, endpoints_matched, state, attempts, due_at, lease_id)
             SELECT delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, payload, payload_encoding,
                    traceparent, log_epoch, log_partition, log_offset, endpoints_matched, 'pending', attempts,
                    now() + make_interval(secs => due_after), lease_id
             FROM rows WHERE due_after IS NOT NULL ORDER BY delivery_id
             ON CONFLICT (delivery_id) DO NOTHING
         )
         INSERT INTO deliveries_awaiting_dedup (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at,
                                                payload, payload_encoding, traceparent, log_epoch, log_partition,
                                                log_offset, endpoints_matched)
         SELECT delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, payload, payload_encoding,
                traceparent, log_epoch, log_partition, log_offset, endpoints_matched
         FROM rows WHERE due_after IS NULL ORDER BY log_partition, log_epoch, log_offset, endpoint_id
         ON CONFLICT DO NOTHING",
    )
    .bind(columns.delivery_ids)
    .bind(columns.org_ids)
    .bind(columns.event_ids)
    .bind(columns.endpoint_ids)
    .bind(columns.event_types)
    .bind(columns.accepted_at)
    .bind(columns.payloads)
    .bind(columns.traceparents)
    .bind(columns.log_epochs)
    .bind(columns.partitions)
    .bind(columns.offsets)
    .bind(columns.attempts)
    .bind(columns.due_after)
    .bind(columns.leases)
    .bind(columns.payload_encodings)
    .bind(columns.endpoints_matched)
    .execute(connection)
    .await?;
    Ok(())
}

/// One array per column: the shape that `UNNEST` takes.
#[derive(Default)]
struct Columns<'a> {
    delivery_ids: Vec<Uuid>,
    org_ids: Vec<Uuid>,
    event_ids: Vec<Uuid>,
    endpoint_ids: Vec<Uuid>,
    event_types: Vec<&'a str>,
    accepted_at: Vec<OffsetDateTime>,
    payloads: Vec<&'a str>,
    traceparents: Vec<Option<&'a str>>,
    log_epochs: Vec<i32>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    attempts: Vec<i32>,
    /// Seconds; `None`: the row waits for the duplicate decision.
    due_after: Vec<Option<f64>>,
    leases: Vec<Option<Uuid>>,
    payload_encodings: Vec<Option<&'a str>>,
    endpoints_matched: Vec<Option<i32>>,
}

impl<'a> Columns<'a> {
    fn of(rows: &'a [NewRow]) -> Self {
        let mut columns = Self::default();
        for NewRow { delivery, waits_for } in rows {
            let event = &delivery.event;
            columns.delivery_ids.push(delivery.id.as_uuid());
            columns.org_ids.push(event.org_id.as_uuid());
            columns.event_ids.push(event.event_id.as_uuid());
            columns.endpoint_ids.push(delivery.endpoint_id.as_uuid());
            columns.event_types.push(&event.event_type);
            columns.accepted_at.push(event.accepted_at);
            columns.payloads.push(&event.payload);
            columns.payload_encodings.push(event.payload_encoding.as_deref());
            columns.traceparents.push(event.traceparent.as_deref());
            columns.log_epochs.push(event.log_epoch);
            columns.endpoints_matched.push(event.endpoints_matched.map(signed));
            columns.partitions.push(event.partition);
            columns.offsets.push(event.offset);
            let (attempts, due_after, lease) = match *waits_for {
                WaitsFor::Dedup => (0, None, None),
                WaitsFor::Attempt { attempts, due_after, lease } => (attempts, Some(due_after.as_secs_f64()), lease),
            };
            columns.attempts.push(signed(attempts));
            columns.due_after.push(due_after);
            columns.leases.push(lease);
        }
        columns
    }
}
