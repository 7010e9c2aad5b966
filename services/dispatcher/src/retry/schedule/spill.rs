//! Writes the rows of spilled deliveries, and what else changes with them: the events, the queues of their endpoints,
//! and the usage of their organizations.

use std::collections::HashSet;
use std::time::Duration;

use schemas::ids::{DeliveryId, OrgId};
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::delivery::{Delivery, signed};
use crate::retry::schedule::OpenLimits;
use crate::retry::schedule::lanes::{self, LaneDue};
use crate::retry::schedule::usage::{self, TOO_MANY_BYTES, TOO_MANY_OPEN, UsageChange};
use crate::retry::schedule::{events, queues};

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
        /// The most events that may share its request; `None`: as many as the endpoint says.
        batch_limit: Option<u32>,
    },
}

impl NewRow {
    /// Approximate size in a statement, bytes.
    pub(crate) fn size(&self) -> usize {
        self.delivery.event.size() + 128
    }

    fn is_scheduled(&self) -> bool {
        matches!(self.waits_for, WaitsFor::Attempt { .. })
    }

    fn due_after(&self) -> Duration {
        match self.waits_for {
            WaitsFor::Attempt { due_after, .. } => due_after,
            WaitsFor::Dedup => Duration::ZERO,
        }
    }

    fn lane_due(&self) -> Option<LaneDue> {
        let (org_id, after) = (self.delivery.event.org_id, self.due_after());
        self.delivery.endpoint_lane().map(|lane| LaneDue { lane, org_id, after })
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
///
/// A row beyond the limits of its organization is refused: it is reported as failed, and its event is not stored. A row
/// whose attempt is in flight is not refused.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    rows: &[NewRow],
    limits: OpenLimits,
) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let inserted = insert_rows(connection, rows, limits).await?;
    let accepted: HashSet<DeliveryId> =
        inserted.iter().filter(|row| !row.is_refused).map(|row| row.delivery_id).collect();
    let scheduled = rows.iter().filter(|row| row.is_scheduled() && accepted.contains(&row.delivery.id));
    let stored = events::insert(connection, scheduled.clone().map(|row| row.delivery.event.as_ref())).await?;
    lanes::lower(connection, scheduled.clone().filter_map(NewRow::lane_due)).await?;
    let due = scheduled.map(|row| (row.delivery.endpoint_id, row.delivery.event.org_id, row.due_after()));
    queues::lower(connection, due).await?;
    let mut change = UsageChange::default();
    inserted.iter().for_each(|row| change.add_rows(row.org_id, 1));
    stored.into_iter().for_each(|(org_id, bytes)| change.add_bytes(org_id, bytes));
    usage::apply(connection, change).await
}

/// A row that did not exist before.
struct InsertedRow {
    delivery_id: DeliveryId,
    org_id: OrgId,
    is_refused: bool,
}

async fn insert_rows(
    connection: &mut PgConnection,
    rows: &[NewRow],
    limits: OpenLimits,
) -> Result<Vec<InsertedRow>, sqlx::Error> {
    let columns = Columns::of(rows);
    let inserted: Vec<(Uuid, Uuid, bool)> = sqlx::query_as(
        "WITH rows AS (
             SELECT t.*, row_number() OVER (PARTITION BY t.org_id) AS nth
             FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::timestamptz[], $7::text[],
                         $8::integer[], $9::integer[], $10::bigint[], $11::integer[], $12::double precision[],
                         $13::uuid[], $14::integer[], $15::integer[], $20::uuid[], $21::integer[])
                  AS t (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, traceparent, log_epoch,
                        log_partition, log_offset, attempts, due_after, lease_id, hops, endpoints_matched, lane,
                        batch_limit)
         ), judged AS (
             SELECT r.*, CASE WHEN r.lease_id IS NOT NULL OR r.due_after IS NULL THEN NULL
                              WHEN u.open_rows + r.nth > $16 THEN $18
                              WHEN u.event_bytes > $17 THEN $19 END AS refusal
             FROM rows r LEFT JOIN delivery_usage u ON u.org_id = r.org_id
         ), scheduled AS (
             INSERT INTO delivery_schedule (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at,
                                            log_epoch, log_partition, log_offset, state, attempts, due_at, lease_id,
                                            refusal, lane, batch_limit)
             SELECT delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, log_epoch, log_partition,
                    log_offset, 'pending', attempts,
                    CASE WHEN refusal IS NULL THEN now() + make_interval(secs => due_after) ELSE now() END, lease_id,
                    refusal, lane, batch_limit
             FROM judged WHERE due_after IS NOT NULL ORDER BY delivery_id
             ON CONFLICT (delivery_id) DO NOTHING
             RETURNING delivery_id, org_id, refusal IS NOT NULL AS is_refused
         ), awaiting AS (
             INSERT INTO deliveries_awaiting_dedup (delivery_id, org_id, event_id, endpoint_id, event_type,
                                                    accepted_at, traceparent, hops, endpoints_matched, log_epoch,
                                                    log_partition, log_offset, lane)
             SELECT delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, traceparent, hops,
                    endpoints_matched, log_epoch, log_partition, log_offset, lane
             FROM judged WHERE due_after IS NULL ORDER BY log_partition, log_epoch, log_offset, endpoint_id
             ON CONFLICT DO NOTHING
             RETURNING delivery_id, org_id, false AS is_refused
         )
         SELECT * FROM scheduled UNION ALL SELECT * FROM awaiting",
    )
    .bind(columns.delivery_ids)
    .bind(columns.org_ids)
    .bind(columns.event_ids)
    .bind(columns.endpoint_ids)
    .bind(columns.event_types)
    .bind(columns.accepted_at)
    .bind(columns.traceparents)
    .bind(columns.log_epochs)
    .bind(columns.partitions)
    .bind(columns.offsets)
    .bind(columns.attempts)
    .bind(columns.due_after)
    .bind(columns.leases)
    .bind(columns.hops)
    .bind(columns.endpoints_matched)
    .bind(limits.rows)
    .bind(limits.bytes)
    .bind(TOO_MANY_OPEN)
    .bind(TOO_MANY_BYTES)
    .bind(columns.lanes)
    .bind(columns.batch_limits)
    .fetch_all(connection)
    .await?;
    let row = |(delivery_id, org_id, is_refused)| InsertedRow {
        delivery_id: DeliveryId::from_uuid(delivery_id),
        org_id: OrgId::from_uuid(org_id),
        is_refused,
    };
    Ok(inserted.into_iter().map(row).collect())
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
    traceparents: Vec<Option<&'a str>>,
    log_epochs: Vec<i32>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    attempts: Vec<i32>,
    /// Seconds; `None`: the row waits for the duplicate decision.
    due_after: Vec<Option<f64>>,
    leases: Vec<Option<Uuid>>,
    hops: Vec<i32>,
    endpoints_matched: Vec<Option<i32>>,
    lanes: Vec<Option<Uuid>>,
    batch_limits: Vec<Option<i32>>,
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
            columns.traceparents.push(event.traceparent.as_deref());
            columns.hops.push(event.hops);
            columns.endpoints_matched.push(event.endpoints_matched.map(signed));
            columns.log_epochs.push(event.log_epoch);
            columns.partitions.push(event.partition);
            columns.offsets.push(event.offset);
            let (attempts, due_after, lease, batch_limit) = match *waits_for {
                WaitsFor::Dedup => (0, None, None, None),
                WaitsFor::Attempt { attempts, due_after, lease, batch_limit } => {
                    (attempts, Some(due_after.as_secs_f64()), lease, batch_limit)
                }
            };
            columns.batch_limits.push(batch_limit.map(signed));
            columns.attempts.push(signed(attempts));
            columns.due_after.push(due_after);
            columns.leases.push(lease);
            columns.lanes.push(delivery.lane.map(|lane| lane.as_uuid()));
        }
        columns
    }
}
