//! Reads pages of events from the view for a replay.

use schemas::events_in_log_order;
use schemas::ids::{DeliveryId, EndpointId, EventId, OrgId};
use schemas::position::LogPosition;
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::types::Json;
use sqlx::{FromRow, Row};
use uuid::Uuid;

use super::log_ends::Range;
use super::selection::{Candidate, KnownDelivery, Page, Selection, ShownEvent, Subscribed, page};
use super::time_window;
use crate::endpoints::filter;
use crate::endpoints::filter::Filter;
use crate::endpoints::filter::payload::Payload;

/// Events of one page, whatever their type is.
const PAGE_ROWS: i64 = 1000;
/// Payloads that a filter looks at in one page. The first one always fits.
const MAX_PAYLOADS: usize = 100;
const MAX_PAYLOAD_BYTES: i64 = 8 * 1024 * 1024;

impl FromRow<'_, PgRow> for ShownEvent {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: EventId::from_uuid(row.try_get("event_id")?),
            event_type: row.try_get("event_type")?,
            accepted_at: row.try_get("accepted_at")?,
            position: LogPosition {
                log_epoch: row.try_get("log_epoch")?,
                partition: row.try_get("log_partition")?,
                offset: row.try_get("log_offset")?,
            },
        })
    }
}

/// What the endpoint subscribes to. `None`: it is deleted. The inner error: its filter cannot be read.
pub(super) async fn subscribed(
    connection: &mut PgConnection,
    selection: &Selection,
) -> Result<Option<Result<Subscribed, String>>, sqlx::Error> {
    let found: Option<(Vec<String>, Option<Json<Value>>)> = sqlx::query_as(
        "SELECT event_types, filter FROM endpoints WHERE org_id = $1 AND id = $2 AND deleted_at IS NULL",
    )
    .bind(selection.org_id.as_uuid())
    .bind(selection.endpoint.as_uuid())
    .fetch_optional(connection)
    .await?;
    Ok(found.map(|(event_types, filter)| {
        let filter = filter.map(|Json(filter)| filter::read(&filter, "filter")).transpose();
        let reason = |errors: Vec<_>| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        filter.map(|filter| Subscribed { event_types, filter }).map_err(reason)
    }))
}

/// The next page of a selection: at most `max_matched` matches.
pub(super) async fn next_page(
    connection: &mut PgConnection,
    selection: &Selection,
    subscribed: &Subscribed,
    ranges: Vec<Range>,
    max_matched: usize,
) -> Result<Page, sqlx::Error> {
    let ranges = time_window::narrow(connection, selection, ranges).await?;
    let read = read_page(connection, selection, &ranges).await?;
    let is_full = read.len() >= PAGE_ROWS as usize;
    let last = read.last().map(|event| (event.position, event.accepted_at));
    let wanted: Vec<ShownEvent> = read.into_iter().filter(|event| selection.wants(event, subscribed)).collect();
    let known = known_deliveries(connection, selection.org_id, selection.endpoint, &wanted).await?;
    let mut candidates: Vec<Candidate> = wanted
        .into_iter()
        .zip(known)
        .filter(|(_, known)| selection.wants_known(*known))
        .map(|(event, known)| Candidate { event, known, holds: Some(true) })
        .collect();
    if let Some(filter) = &subscribed.filter {
        ask(connection, selection.org_id, filter, &mut candidates).await?;
    }
    Ok(page(candidates, last, is_full, max_matched))
}

async fn read_page(
    connection: &mut PgConnection,
    selection: &Selection,
    ranges: &[Range],
) -> Result<Vec<ShownEvent>, sqlx::Error> {
    // Range by range, so that each is one range of the index.
    sqlx::query_as(concat!(
        "SELECT e.event_id, e.event_type, e.accepted_at, e.log_partition, e.log_epoch, e.log_offset
         FROM UNNEST($2::integer[], $3::integer[], $4::bigint[], $5::integer[], $6::bigint[])
              AS r (partition, after_epoch, after_offset, end_epoch, end_offset)
         CROSS JOIN LATERAL ",
        events_in_log_order!(
            SELECT "e.event_id, e.event_type, e.accepted_at, e.log_partition, e.log_epoch, e.log_offset"
            FROM "contract.events"
            WHERE "e.org_id = $1 AND e.log_partition = r.partition
                   AND (e.log_epoch, e.log_offset) > (r.after_epoch, r.after_offset)
                   AND (e.log_epoch, e.log_offset) < (r.end_epoch, r.end_offset)
                   AND e.accepted_at >= COALESCE($7, '-infinity') AND e.accepted_at < COALESCE($8, 'infinity')"
            ORDER BY "log_epoch, log_offset" LIMIT "$9"
        ),
        " AS e
         ORDER BY e.log_partition, e.log_epoch, e.log_offset LIMIT $9",
    ))
    .persistent(false)
    .bind(selection.org_id.as_uuid())
    .bind(ranges.iter().map(|range| range.partition).collect::<Vec<_>>())
    .bind(ranges.iter().map(|range| range.after.0).collect::<Vec<_>>())
    .bind(ranges.iter().map(|range| range.after.1).collect::<Vec<_>>())
    .bind(ranges.iter().map(|range| range.end.0).collect::<Vec<_>>())
    .bind(ranges.iter().map(|range| range.end.1).collect::<Vec<_>>())
    .bind(selection.from.map(|start| start.earliest()))
    .bind(selection.before)
    .bind(PAGE_ROWS)
    .fetch_all(connection)
    .await
}

/// What is known of the deliveries of these events, in their order. One statement, so one snapshot: a row that moves
/// from one table to the other is seen in one of them.
async fn known_deliveries(
    connection: &mut PgConnection,
    org_id: OrgId,
    endpoint: EndpointId,
    events: &[ShownEvent],
) -> Result<Vec<KnownDelivery>, sqlx::Error> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(Option<String>, bool)> = sqlx::query_as(
        "SELECT (SELECT v.status FROM contract.deliveries v
                 WHERE v.org_id = $1 AND v.delivery_id = t.delivery_id LIMIT 1),
                EXISTS (SELECT FROM delivery_schedule s WHERE s.delivery_id = t.delivery_id)
                OR EXISTS (SELECT FROM deliveries_awaiting_dedup d
                           WHERE d.org_id = $1 AND d.event_id = t.event_id AND d.delivery_id = t.delivery_id)
         FROM UNNEST($2::uuid[], $3::uuid[]) WITH ORDINALITY AS t (delivery_id, event_id, nth) ORDER BY t.nth",
    )
    .persistent(false)
    .bind(org_id.as_uuid())
    .bind(events.iter().map(|event| DeliveryId::of(endpoint, event.id).as_uuid()).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.id.as_uuid()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let known = |(status, has_row): (Option<String>, bool)| match status.as_deref() {
        Some("delivered" | "failed" | "cancelled") => KnownDelivery::Finished,
        Some(_) => KnownDelivery::Open,
        None if has_row => KnownDelivery::Open,
        None => KnownDelivery::Missing,
    };
    Ok(rows.into_iter().map(known).collect())
}

/// Asks a filter for the payloads of candidates, as many as one page looks at.
async fn ask(
    connection: &mut PgConnection,
    org_id: OrgId,
    filter: &Filter,
    candidates: &mut [Candidate],
) -> Result<(), sqlx::Error> {
    candidates.iter_mut().skip(MAX_PAYLOADS).for_each(|one| one.holds = None);
    let looked_at = candidates.len().min(MAX_PAYLOADS);
    let ids: Vec<Uuid> = candidates.iter().take(looked_at).map(|one| one.event.id.as_uuid()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let rows: Vec<(i64, Option<String>, bool)> = sqlx::query_as(
        "WITH found AS (
             SELECT t.nth, e.payload::text AS payload, e.payload_encoding IS NOT NULL AS is_encoded
             FROM UNNEST($2::uuid[]) WITH ORDINALITY AS t (event_id, nth)
                  LEFT JOIN contract.events e ON e.org_id = $1 AND e.event_id = t.event_id
         ), measured AS (
             SELECT *, sum(octet_length(payload)) OVER (ORDER BY nth) AS bytes FROM found
         )
         SELECT nth, payload, is_encoded FROM measured WHERE nth = 1 OR bytes IS NULL OR bytes <= $3 ORDER BY nth",
    )
    .persistent(false)
    .bind(org_id.as_uuid())
    .bind(ids)
    .bind(MAX_PAYLOAD_BYTES)
    .fetch_all(connection)
    .await?;
    let mut rows = rows.into_iter().peekable();
    for (candidate, nth) in candidates.iter_mut().zip(1_i64..).take(looked_at) {
        let row = rows.next_if(|(of, ..)| *of == nth);
        // An event that retention has just dropped has no payload.
        candidate.holds = row.map(|(_, payload, is_encoded)| {
            payload.is_some_and(|payload| filter.holds(&Payload::new(&payload, is_encoded)))
        });
        // A large payload takes milliseconds.
        tokio::task::yield_now().await;
    }
    Ok(())
}
