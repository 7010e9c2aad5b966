//! Reads deliveries: those that were tried from the view, through the contract, and those that wait for their first
//! attempt from the dispatcher's tables. The latter are read first: a delivery that is tried meanwhile is in both.

use schemas::ids::{DeliveryId, EndpointId, EventId, OrgId};
use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use super::bodies::{AttemptItem, DeliveryItem};
use super::request::ListRequest;
use crate::delivery::TEST_PARTITION;

/// Far above the endpoints that one event can match.
const MAX_OF_EVENT: i64 = 1_000;
/// Far above the attempts of one delivery.
const MAX_ATTEMPTS: i64 = 100;

macro_rules! tried_columns {
    () => {
        "d.delivery_id, d.event_id, d.endpoint_id, d.event_type, d.status, d.attempts, d.next_attempt_at,
         d.last_status_code, d.last_error, d.created_at"
    };
}

/// A delivery whose attempt is being made has a lease, and its time is the end of that. One that has a lane may wait
/// for others.
macro_rules! untried_columns {
    () => {
        "s.delivery_id, s.event_id, s.endpoint_id, s.event_type, s.state AS status, s.attempts,
         CASE WHEN s.state = 'pending' AND s.lease_id IS NULL AND s.lane IS NULL THEN s.due_at END AS next_attempt_at,
         NULL::integer AS last_status_code, NULL::text AS last_error, s.accepted_at AS created_at"
    };
}

/// Deliveries of an endpoint that sort before `before`, newest first, at most `limit + 1`.
pub(super) async fn of_endpoint(
    pool: &PgPool,
    organization: OrgId,
    endpoint: EndpointId,
    request: &ListRequest,
) -> Result<Vec<DeliveryItem>, sqlx::Error> {
    let mut found = if request.wants_pending() {
        untried_of_endpoint(pool, organization, endpoint, request).await?
    } else {
        Vec::new()
    };
    let tried = tried_of_endpoint(pool, organization, endpoint, request).await?;
    merge(&mut found, tried);
    found.truncate(request.limit + 1);
    Ok(found)
}

/// Adds what the view says; it knows more of a delivery than the dispatcher's tables. Newest first.
fn merge(found: &mut Vec<DeliveryItem>, tried: Vec<DeliveryItem>) {
    found.retain(|item| tried.iter().all(|tried| tried.delivery_id != item.delivery_id));
    found.extend(tried);
    found.sort_by_key(|item| std::cmp::Reverse(item.sort_key()));
}

async fn tried_of_endpoint(
    pool: &PgPool,
    organization: OrgId,
    endpoint: EndpointId,
    request: &ListRequest,
) -> Result<Vec<DeliveryItem>, sqlx::Error> {
    // For each wanted state, and type, one range of an index in the order of the page.
    let statement = match &request.event_types {
        None => concat!(
            "SELECT d.* FROM UNNEST($3::text[]) AS wanted (status) CROSS JOIN LATERAL (SELECT ",
            tried_columns!(),
            " FROM contract.deliveries d
              WHERE d.org_id = $1 AND d.endpoint_id = $2 AND d.status = wanted.status AND d.created_at >= $4
                    AND (d.created_at, d.delivery_id) < ($5, $6)
              ORDER BY d.created_at DESC, d.delivery_id DESC LIMIT $7) AS d
              ORDER BY d.created_at DESC, d.delivery_id DESC LIMIT $7"
        ),
        Some(_) => concat!(
            "SELECT d.* FROM UNNEST($3::text[]) AS wanted (status) CROSS JOIN UNNEST($8::text[]) AS types (event_type)
             CROSS JOIN LATERAL (SELECT ",
            tried_columns!(),
            " FROM contract.deliveries d
              WHERE d.org_id = $1 AND d.endpoint_id = $2 AND d.event_type = types.event_type
                    AND d.status = wanted.status AND d.created_at >= $4 AND (d.created_at, d.delivery_id) < ($5, $6)
              ORDER BY d.created_at DESC, d.delivery_id DESC LIMIT $7) AS d
              ORDER BY d.created_at DESC, d.delivery_id DESC LIMIT $7"
        ),
    };
    let mut query = sqlx::query_as(statement)
        .bind(organization.as_uuid())
        .bind(endpoint.as_uuid())
        .bind(request.tried_states())
        .bind(request.from)
        .bind(request.before.created_at)
        .bind(request.before.delivery_id.as_uuid())
        .bind(page_rows(request));
    if let Some(types) = &request.event_types {
        query = query.bind(types);
    }
    query.fetch_all(pool).await
}

async fn untried_of_endpoint(
    pool: &PgPool,
    organization: OrgId,
    endpoint: EndpointId,
    request: &ListRequest,
) -> Result<Vec<DeliveryItem>, sqlx::Error> {
    // The scalar subquery is one probe of the primary key for each row; NOT EXISTS could become a join with all
    // deliveries.
    let statement = match &request.event_types {
        None => concat!(
            "SELECT ",
            untried_columns!(),
            " FROM delivery_schedule s
              WHERE s.org_id = $1 AND s.endpoint_id = $2 AND s.attempts = 0 AND s.state = 'pending'
                    AND s.accepted_at >= $3 AND (s.accepted_at, s.delivery_id) < ($4, $5)
                    AND (SELECT 1 FROM contract.deliveries d
                         WHERE d.org_id = s.org_id AND d.delivery_id = s.delivery_id LIMIT 1) IS NULL
              ORDER BY s.accepted_at DESC, s.delivery_id DESC LIMIT $6"
        ),
        Some(_) => concat!(
            "SELECT s.* FROM UNNEST($7::text[]) AS types (event_type) CROSS JOIN LATERAL (SELECT ",
            untried_columns!(),
            " FROM delivery_schedule s
              WHERE s.org_id = $1 AND s.endpoint_id = $2 AND s.event_type = types.event_type AND s.attempts = 0
                    AND s.state = 'pending' AND s.accepted_at >= $3
                    AND (s.accepted_at, s.delivery_id) < ($4, $5)
                    AND (SELECT 1 FROM contract.deliveries d
                         WHERE d.org_id = s.org_id AND d.delivery_id = s.delivery_id LIMIT 1) IS NULL
              ORDER BY s.accepted_at DESC, s.delivery_id DESC LIMIT $6) AS s
              ORDER BY s.created_at DESC, s.delivery_id DESC LIMIT $6"
        ),
    };
    let mut query = sqlx::query_as(statement)
        .bind(organization.as_uuid())
        .bind(endpoint.as_uuid())
        .bind(request.from)
        .bind(request.before.created_at)
        .bind(request.before.delivery_id.as_uuid())
        .bind(page_rows(request));
    if let Some(types) = &request.event_types {
        query = query.bind(types);
    }
    query.fetch_all(pool).await
}

/// One more than a page has, to see whether there are more.
fn page_rows(request: &ListRequest) -> i64 {
    i64::try_from(request.limit).map_or(i64::MAX, |limit| limit + 1)
}

/// All deliveries of an event, newest first.
pub(super) async fn of_event(
    pool: &PgPool,
    organization: OrgId,
    event: EventId,
) -> Result<Vec<DeliveryItem>, sqlx::Error> {
    let mut found: Vec<DeliveryItem> = sqlx::query_as(concat!(
        "SELECT ",
        untried_columns!(),
        " FROM delivery_schedule s
          WHERE s.org_id = $1 AND s.event_id = $2 AND s.attempts = 0 AND s.state = 'pending'
          UNION ALL
          SELECT s.delivery_id, s.event_id, s.endpoint_id, s.event_type, 'pending', 0, NULL, NULL, NULL, s.accepted_at
          FROM deliveries_awaiting_dedup s WHERE s.org_id = $1 AND s.event_id = $2
          LIMIT $3"
    ))
    .bind(organization.as_uuid())
    .bind(event.as_uuid())
    .bind(MAX_OF_EVENT)
    .fetch_all(pool)
    .await?;
    // Two records can have one event id; each waits for its own decision.
    found.sort_by_key(|item| item.delivery_id);
    found.dedup_by_key(|item| item.delivery_id);
    let tried = sqlx::query_as(concat!(
        "SELECT ",
        tried_columns!(),
        " FROM contract.deliveries d WHERE d.org_id = $1 AND d.event_id = $2 LIMIT $3"
    ))
    .bind(organization.as_uuid())
    .bind(event.as_uuid())
    .bind(MAX_OF_EVENT)
    .fetch_all(pool)
    .await?;
    merge(&mut found, tried);
    Ok(found)
}

/// One delivery.
pub(super) async fn one(
    pool: &PgPool,
    organization: OrgId,
    delivery: DeliveryId,
) -> Result<Option<DeliveryItem>, sqlx::Error> {
    // The row of a test stays until the view shows its end.
    let untried = sqlx::query_as(concat!(
        "SELECT ",
        untried_columns!(),
        " FROM delivery_schedule s
          WHERE s.org_id = $1 AND s.delivery_id = $2
                AND (s.attempts = 0 AND s.state = 'pending' OR s.log_partition = $3)"
    ))
    .bind(organization.as_uuid())
    .bind(delivery.as_uuid())
    .bind(TEST_PARTITION)
    .fetch_optional(pool)
    .await?;
    // A delivery that was retried by hand is pending again before the view knows of it.
    let tried = sqlx::query_as(
        "SELECT d.delivery_id, d.event_id, d.endpoint_id, d.event_type,
                CASE WHEN s.round > d.round THEN 'pending' ELSE d.status END AS status, d.attempts,
                CASE WHEN s.round > d.round AND s.lease_id IS NULL THEN s.due_at ELSE d.next_attempt_at
                END AS next_attempt_at, d.last_status_code, d.last_error, d.created_at
         FROM contract.deliveries d
              LEFT JOIN delivery_schedule s ON s.delivery_id = d.delivery_id AND s.state = 'pending'
         WHERE d.org_id = $1 AND d.delivery_id = $2",
    )
    .bind(organization.as_uuid())
    .bind(delivery.as_uuid())
    .fetch_optional(pool)
    .await?;
    Ok(tried.or(untried))
}

/// The attempts of a delivery, the first one first. The report of a cancelled delivery is no attempt.
pub(super) async fn attempts(
    pool: &PgPool,
    organization: OrgId,
    delivery: DeliveryId,
) -> Result<Vec<AttemptItem>, sqlx::Error> {
    sqlx::query_as(
        "SELECT attempt, started_at, status_code, latency_ms, connect_us, send_us, wait_us, error, response_excerpt,
                remote_address, batch_id
         FROM contract.delivery_attempts
         WHERE org_id = $1 AND delivery_id = $2 AND outcome <> 'cancelled' ORDER BY attempt, started_at LIMIT $3",
    )
    .bind(organization.as_uuid())
    .bind(delivery.as_uuid())
    .bind(MAX_ATTEMPTS)
    .fetch_all(pool)
    .await
}

/// An event as the view shows it.
#[derive(Debug, Clone)]
pub(super) struct ShownEvent {
    pub event_type: String,
    pub accepted_at: OffsetDateTime,
    pub payload: String,
    /// The payload is base64 text.
    pub is_encoded: bool,
}

/// The original of a duplicate; of another event, itself.
pub(super) async fn original_of(pool: &PgPool, organization: OrgId, event: EventId) -> Result<EventId, sqlx::Error> {
    let canonical: Option<Uuid> =
        sqlx::query_scalar("SELECT canonical_id FROM contract.duplicates WHERE org_id = $1 AND event_id = $2")
            .bind(organization.as_uuid())
            .bind(event.as_uuid())
            .fetch_optional(pool)
            .await?;
    Ok(canonical.map_or(event, EventId::from_uuid))
}

/// An event that the view shows.
pub(super) async fn event(
    pool: &PgPool,
    organization: OrgId,
    event: EventId,
) -> Result<Option<ShownEvent>, sqlx::Error> {
    let found: Option<(String, OffsetDateTime, String, bool)> = sqlx::query_as(
        "SELECT event_type, accepted_at, payload::text, payload_encoding IS NOT NULL FROM contract.events
         WHERE org_id = $1 AND event_id = $2",
    )
    .bind(organization.as_uuid())
    .bind(event.as_uuid())
    .fetch_optional(pool)
    .await?;
    Ok(found.map(|(event_type, accepted_at, payload, is_encoded)| ShownEvent {
        event_type,
        accepted_at,
        payload,
        is_encoded,
    }))
}

#[cfg(test)]
mod tests;
