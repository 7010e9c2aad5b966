//! Writes the rows of spilled deliveries.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::number;
use crate::delivery::{Delivery, RowState};

/// A spilled delivery: a row to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewRow {
    pub delivery: Delivery,
    /// In which table the row goes.
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
    /// Bytes that it adds to a statement, about.
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

/// Writes rows. A row that exists already stays as it is: a commit whose outcome was unknown is repeated.
pub(crate) async fn insert(connection: &mut PgConnection, rows: &[NewRow]) -> Result<(), sqlx::Error> {
    let (mut awaiting, mut pending) = (Vec::new(), Vec::new());
    for row in rows {
        match row.waits_for {
            WaitsFor::Dedup => awaiting.push(&row.delivery),
            WaitsFor::Attempt { attempts, due_after, lease } => {
                pending.push(Pending { delivery: &row.delivery, attempts, due_after, lease });
            }
        }
    }
    insert_awaiting(connection, &awaiting).await?;
    insert_pending(connection, &pending).await
}

async fn insert_awaiting(connection: &mut PgConnection, deliveries: &[&Delivery]) -> Result<(), sqlx::Error> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(deliveries.iter().copied());
    sqlx::query(
        "INSERT INTO deliveries_awaiting_dedup (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at,
                                                payload, traceparent, log_epoch, log_partition, log_offset)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::timestamptz[], $7::text[],
                              $8::text[], $9::integer[], $10::integer[], $11::bigint[])
              AS t (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, payload, traceparent,
                    log_epoch, log_partition, log_offset)
         ORDER BY log_partition, log_epoch, log_offset, endpoint_id
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
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_pending(connection: &mut PgConnection, rows: &[Pending<'_>]) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(rows.iter().map(|row| row.delivery));
    let state = RowState::Pending.as_str();
    sqlx::query(
        "INSERT INTO delivery_schedule (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, payload,
                                        traceparent, log_epoch, log_partition, log_offset, state, attempts, due_at,
                                        lease_id)
         SELECT delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, payload, traceparent, log_epoch,
                log_partition, log_offset, $12, attempts, now() + make_interval(secs => due_after), lease_id
         FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::timestamptz[], $7::text[],
                     $8::text[], $9::integer[], $10::integer[], $11::bigint[], $13::integer[], $14::double precision[],
                     $15::uuid[])
              AS t (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, payload, traceparent,
                    log_epoch, log_partition, log_offset, attempts, due_after, lease_id)
         ORDER BY delivery_id
         ON CONFLICT (delivery_id) DO NOTHING",
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
    .bind(state)
    .bind(rows.iter().map(|row| number(row.attempts)).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.due_after.as_secs_f64()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.lease).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

struct Pending<'a> {
    delivery: &'a Delivery,
    attempts: u32,
    due_after: Duration,
    lease: Option<Uuid>,
}

/// The columns that both tables have, one array per column: the shape that `UNNEST` takes.
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
}

impl<'a> Columns<'a> {
    fn of(deliveries: impl Iterator<Item = &'a Delivery>) -> Self {
        let mut columns = Self::default();
        for delivery in deliveries {
            let event = &delivery.event;
            columns.delivery_ids.push(delivery.id.as_uuid());
            columns.org_ids.push(event.org_id.as_uuid());
            columns.event_ids.push(event.event_id.as_uuid());
            columns.endpoint_ids.push(delivery.endpoint_id.as_uuid());
            columns.event_types.push(&event.event_type);
            columns.accepted_at.push(event.accepted_at);
            columns.payloads.push(&event.payload);
            columns.traceparents.push(event.traceparent.as_deref());
            columns.log_epochs.push(event.log_epoch);
            columns.partitions.push(event.partition);
            columns.offsets.push(event.offset);
        }
        columns
    }
}
