//! Schedules events for an endpoint, whether it has got them before or not.

use schemas::ids::{DeliveryId, EndpointId, EventId, OrgId, ReplayId};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::retry::schedule::again::{self, StartedBy, StartedRow};

/// Adds a delivery to an endpoint for each of the events `missing`, and starts a new round of each of the deliveries
/// `finished`, as [`again::start_rounds`] does. Returns how many it started.
pub(crate) async fn start_replayed(
    connection: &mut PgConnection,
    (org_id, endpoint, replay): (OrgId, EndpointId, ReplayId),
    missing: &[EventId],
    finished: &[DeliveryId],
) -> Result<usize, sqlx::Error> {
    let mut started = insert_missing(connection, (org_id, endpoint, replay), missing).await?;
    started.extend(again::insert_rounds(connection, org_id, finished, StartedBy::Replay(replay)).await?);
    again::complete(connection, org_id, &started).await?;
    Ok(started.len())
}

/// Adds the rows of events that have none, as far as the view has them. They are of the first round: as all that is
/// asked for by hand, they are sent although their event is acknowledged.
///
/// As in a retry by hand, the position of a row has the negative log epoch of the view, which is none of the
/// dispatcher's.
async fn insert_missing(
    connection: &mut PgConnection,
    (org_id, endpoint, replay): (OrgId, EndpointId, ReplayId),
    events: &[EventId],
) -> Result<Vec<StartedRow>, sqlx::Error> {
    let mut rows: Vec<(Uuid, Uuid)> =
        events.iter().map(|event| (DeliveryId::of(endpoint, *event).as_uuid(), event.as_uuid())).collect();
    // In this order, so that two transactions lock rows in one order.
    rows.sort_unstable();
    let (deliveries, events): (Vec<Uuid>, Vec<Uuid>) = rows.into_iter().unzip();
    sqlx::query_as(
        "INSERT INTO delivery_schedule (delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, log_epoch,
                                        log_partition, log_offset, state, round, replay_id, due_at)
         SELECT t.delivery_id, e.org_id, e.event_id, $2, e.event_type, e.accepted_at, -e.log_epoch, e.log_partition,
                e.log_offset, 'pending', 1, $5, now()
         FROM UNNEST($3::uuid[], $4::uuid[]) WITH ORDINALITY AS t (delivery_id, event_id, nth)
              JOIN contract.events e ON e.org_id = $1 AND e.event_id = t.event_id
         ORDER BY t.nth
         ON CONFLICT (delivery_id) DO NOTHING
         RETURNING event_id, endpoint_id, log_partition, log_epoch, log_offset",
    )
    .persistent(false)
    .bind(org_id.as_uuid())
    .bind(endpoint.as_uuid())
    .bind(deliveries)
    .bind(events)
    .bind(replay.as_uuid())
    .fetch_all(connection)
    .await
}
