//! Retries deliveries by hand: a pending one becomes due, finished ones get a new round of attempts.

use std::time::Duration;

use schemas::ids::{DeliveryId, EndpointId, EventId, OrgId, ReplayId};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{FromRow, Row};
use uuid::Uuid;

use crate::retry::schedule::events::{self, EventToCopy};
use crate::retry::schedule::lanes::{self, LaneDue};
use crate::retry::schedule::usage::{self, UsageChange};
use crate::retry::schedule::{OpenLimits, queues};

/// What a manual retry did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryOutcome {
    /// An attempt to this endpoint is due, or in flight.
    Scheduled(EndpointId),
    /// The organization has no such delivery.
    Unknown,
    /// It is not finished and has no row: its first attempt is in flight, or the view does not show its end yet.
    InProgress,
    EndpointDeleted,
    /// The view has no such event any more.
    EventNotKept,
    /// The organization has too much open; this is the reason.
    TooMuchOpen(&'static str),
}

/// Makes an attempt of a delivery due now. A delivery that is finished gets a new round: a retry schedule from its
/// start. A pending one keeps its schedule. Called twice, it has the effect of one call.
pub(crate) async fn retry_now(
    connection: &mut PgConnection,
    org_id: OrgId,
    delivery: DeliveryId,
    limits: OpenLimits,
) -> Result<RetryOutcome, sqlx::Error> {
    match open_row(connection, org_id, delivery).await? {
        Some(OpenRow::Waits(endpoint, lane)) => {
            let due = lane.map(|lane| LaneDue::at_once(endpoint.as_uuid(), lane, org_id.as_uuid()));
            lanes::lower(connection, due.into_iter()).await?;
            queues::lower(connection, [(endpoint, org_id, Duration::ZERO)].into_iter()).await?;
            return Ok(RetryOutcome::Scheduled(endpoint));
        }
        Some(OpenRow::InFlight(endpoint)) => return Ok(RetryOutcome::Scheduled(endpoint)),
        Some(OpenRow::IsRefused) => return Ok(RetryOutcome::InProgress),
        None => {}
    }
    let Some(known) = known(connection, org_id, delivery).await? else { return Ok(RetryOutcome::Unknown) };
    if let Some(reason) = known.reason_against() {
        return Ok(reason);
    }
    if let Some(reason) = usage::beyond(connection, org_id, 1, limits).await? {
        return Ok(RetryOutcome::TooMuchOpen(reason));
    }
    start_round(connection, org_id, delivery).await?;
    Ok(RetryOutcome::Scheduled(known.endpoint))
}

/// An unfinished row.
enum OpenRow {
    /// In its lane, if it has one: then it is sent after those before it.
    Waits(EndpointId, Option<Uuid>),
    /// It has the lease of an attempt.
    InFlight(EndpointId),
    /// It is about to be reported as failed.
    IsRefused,
}

/// Locks the unfinished row of a delivery, and makes it due.
async fn open_row(
    connection: &mut PgConnection,
    org_id: OrgId,
    delivery: DeliveryId,
) -> Result<Option<OpenRow>, sqlx::Error> {
    let row: Option<(Uuid, Option<Uuid>, bool, bool)> = sqlx::query_as(
        "UPDATE delivery_schedule
         SET due_at = CASE WHEN lease_id IS NULL AND refusal IS NULL THEN LEAST(due_at, now()) ELSE due_at END
         WHERE delivery_id = $1 AND org_id = $2 AND state = 'pending'
         RETURNING endpoint_id, lane, lease_id IS NOT NULL, refusal IS NOT NULL",
    )
    .bind(delivery.as_uuid())
    .bind(org_id.as_uuid())
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|(endpoint, lane, is_leased, is_refused)| match (is_refused, is_leased) {
        (true, _) => OpenRow::IsRefused,
        (false, true) => OpenRow::InFlight(EndpointId::from_uuid(endpoint)),
        (false, false) => OpenRow::Waits(EndpointId::from_uuid(endpoint), lane),
    }))
}

/// A delivery without an unfinished row, as the view shows it.
struct Known {
    endpoint: EndpointId,
    is_finished: bool,
    has_event: bool,
    has_endpoint: bool,
}

impl Known {
    fn reason_against(&self) -> Option<RetryOutcome> {
        if !self.has_endpoint {
            Some(RetryOutcome::EndpointDeleted)
        } else if !self.is_finished {
            Some(RetryOutcome::InProgress)
        } else if !self.has_event {
            Some(RetryOutcome::EventNotKept)
        } else {
            None
        }
    }
}

impl FromRow<'_, PgRow> for Known {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            endpoint: EndpointId::from_uuid(row.try_get("endpoint_id")?),
            is_finished: row.try_get("is_finished")?,
            has_event: row.try_get("has_event")?,
            has_endpoint: row.try_get("has_endpoint")?,
        })
    }
}

/// A finished row knows the end of a delivery before the view does.
async fn known(
    connection: &mut PgConnection,
    org_id: OrgId,
    delivery: DeliveryId,
) -> Result<Option<Known>, sqlx::Error> {
    sqlx::query_as(
        "SELECT v.endpoint_id, v.status IN ('delivered', 'failed', 'cancelled')
                OR EXISTS (SELECT FROM delivery_schedule s
                           WHERE s.delivery_id = v.delivery_id AND s.finished_at IS NOT NULL) AS is_finished,
                EXISTS (SELECT FROM contract.events e
                        WHERE e.org_id = v.org_id AND e.event_id = v.event_id) AS has_event,
                EXISTS (SELECT FROM endpoints p WHERE p.id = v.endpoint_id AND p.deleted_at IS NULL) AS has_endpoint
         FROM contract.deliveries v WHERE v.org_id = $1 AND v.delivery_id = $2",
    )
    .bind(org_id.as_uuid())
    .bind(delivery.as_uuid())
    .fetch_optional(connection)
    .await
}

/// The row of a new round.
pub(super) struct StartedRow {
    endpoint: EndpointId,
    event: EventId,
    position: events::Position,
}

impl FromRow<'_, PgRow> for StartedRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            endpoint: EndpointId::from_uuid(row.try_get("endpoint_id")?),
            event: EventId::from_uuid(row.try_get("event_id")?),
            position: (row.try_get("log_partition")?, row.try_get("log_epoch")?, row.try_get("log_offset")?),
        })
    }
}

/// What starts a new round of finished deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartedBy {
    /// Of all that are asked for.
    Hand,
    /// Only of those of which the view shows the last round.
    Replay(ReplayId),
}

/// Adds the row of a finished delivery. Does nothing if another call has just added it.
async fn start_round(connection: &mut PgConnection, org_id: OrgId, delivery: DeliveryId) -> Result<(), sqlx::Error> {
    let started = insert_rounds(connection, org_id, &[delivery], StartedBy::Hand).await?;
    complete(connection, org_id, &started).await
}

/// Starts a new round, for a replay, of those of these deliveries that are finished, as far as the view knows the last
/// round of them and has their event. Returns how many it started.
pub(crate) async fn start_rounds(
    connection: &mut PgConnection,
    (org_id, replay): (OrgId, ReplayId),
    deliveries: &[DeliveryId],
) -> Result<usize, sqlx::Error> {
    let started = insert_rounds(connection, org_id, deliveries, StartedBy::Replay(replay)).await?;
    complete(connection, org_id, &started).await?;
    Ok(started.len())
}

/// Adds rows, or reuses those that are still there. These keep their log position: it covers their record until the
/// dispatcher has passed it. A new row has the position of the view, which counts log epochs for itself; as a negative
/// number, its epoch is none of the dispatcher's. They have no lane: those after them have gone on.
pub(super) async fn insert_rounds(
    connection: &mut PgConnection,
    org_id: OrgId,
    deliveries: &[DeliveryId],
    started_by: StartedBy,
) -> Result<Vec<StartedRow>, sqlx::Error> {
    let replay = match started_by {
        StartedBy::Hand => None,
        StartedBy::Replay(replay) => Some(replay.as_uuid()),
    };
    sqlx::query_as(
        "INSERT INTO delivery_schedule AS s (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at,
                                             log_epoch, log_partition, log_offset, state, attempts, attempts_before,
                                             round, replay_id, due_at)
         SELECT v.delivery_id, v.org_id, v.event_id, v.endpoint_id, v.event_type, e.accepted_at, -e.log_epoch,
                e.log_partition, e.log_offset, 'pending', v.attempts, v.attempts, v.round + 1, $3, now()
         FROM UNNEST($2::uuid[]) WITH ORDINALITY AS t (delivery_id, nth)
              JOIN contract.deliveries v ON v.org_id = $1 AND v.delivery_id = t.delivery_id
              JOIN contract.events e ON e.org_id = v.org_id AND e.event_id = v.event_id
         ORDER BY t.nth
         ON CONFLICT (delivery_id) DO UPDATE
             SET state = 'pending', attempts = greatest(s.attempts, EXCLUDED.attempts),
                 attempts_before = greatest(s.attempts, EXCLUDED.attempts),
                 round = greatest(s.round + 1, EXCLUDED.round), replay_id = EXCLUDED.replay_id, due_at = now(),
                 created_at = now(), finished_at = NULL, lease_id = NULL, refusal = NULL, lane = NULL,
                 batch_limit = NULL
             WHERE s.finished_at IS NOT NULL AND ($3 IS NULL OR s.round < EXCLUDED.round)
         RETURNING event_id, endpoint_id, log_partition, log_epoch, log_offset",
    )
    .persistent(false)
    .bind(org_id.as_uuid())
    .bind(in_order(deliveries))
    .bind(replay)
    .fetch_all(connection)
    .await
}

/// Writes what changes with all rows that a transaction has added: events, queues and usage.
pub(super) async fn complete(
    connection: &mut PgConnection,
    org_id: OrgId,
    started: &[StartedRow],
) -> Result<(), sqlx::Error> {
    let mut change = UsageChange::default();
    change.add_rows(org_id, i64::try_from(started.len()).unwrap_or(i64::MAX));
    let wanted = started.iter().map(|row| EventToCopy {
        org_id: org_id.as_uuid(),
        event_id: row.event.as_uuid(),
        position: row.position,
        // The view has none of these: a new trace starts.
        traceparent: None,
        hops: 0,
        endpoints_matched: None,
    });
    for (org_id, bytes) in events::copy_from_view(connection, wanted).await? {
        change.add_bytes(org_id, bytes);
    }
    let due = started.iter().map(|row| (row.endpoint, org_id, Duration::ZERO));
    queues::lower(connection, due).await?;
    usage::apply(connection, change).await
}

/// In this order, so that two transactions lock rows in one order.
fn in_order(deliveries: &[DeliveryId]) -> Vec<Uuid> {
    let mut ids: Vec<Uuid> = deliveries.iter().map(DeliveryId::as_uuid).collect();
    ids.sort_unstable();
    ids
}
