//! What dispatchers know of an endpoint now: its circuit, its rate, and how many attempts it may have in flight.

use std::collections::HashMap;

use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::attempt::slots::INITIAL_WINDOW;
use crate::endpoints::store::StoredEndpoint;

/// As the dispatchers have written it, about a second ago.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct EndpointCondition {
    pub circuit: String,
    /// When an open circuit lets one attempt through, or when a pause ends that the endpoint asked for.
    pub retry_at: Option<OffsetDateTime>,
    /// Per second; `None`: no limit.
    pub rate: Option<f64>,
    pub max_in_flight: i32,
}

/// Endpoint, circuit, when it lets an attempt through, until when the endpoint wants a pause, current rate of its
/// limit, attempts in flight.
type ConditionRow = (Uuid, String, Option<OffsetDateTime>, Option<OffsetDateTime>, f64, Option<i32>);

pub(super) async fn read(pool: &PgPool, endpoint: &StoredEndpoint) -> Result<EndpointCondition, sqlx::Error> {
    let read = read_all(pool, std::slice::from_ref(endpoint)).await?;
    Ok(read.into_iter().next().unwrap_or_else(|| of(endpoint, None)))
}

/// In the order of the endpoints.
pub(super) async fn read_all(
    pool: &PgPool,
    endpoints: &[StoredEndpoint],
) -> Result<Vec<EndpointCondition>, sqlx::Error> {
    let rows: Vec<ConditionRow> = sqlx::query_as(
        "SELECT endpoint_id, circuit, circuit_retry_at, CASE WHEN stopped_until > now() THEN stopped_until END,
                rate_share, max_in_flight
         FROM endpoint_conditions WHERE endpoint_id = ANY ($1)",
    )
    .bind(endpoints.iter().map(|endpoint| endpoint.id.as_uuid()).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    let mut rows: HashMap<Uuid, ConditionRow> = rows.into_iter().map(|row| (row.0, row)).collect();
    Ok(endpoints.iter().map(|endpoint| of(endpoint, rows.remove(&endpoint.id.as_uuid()))).collect())
}

/// Without a row, nothing is known: the endpoint has what every endpoint starts with.
fn of(endpoint: &StoredEndpoint, row: Option<ConditionRow>) -> EndpointCondition {
    let initial = i32::try_from(INITIAL_WINDOW).unwrap_or(i32::MAX);
    let limit = endpoint.rate_limit_per_second.map(f64::from);
    let bound = endpoint.max_in_flight.unwrap_or(i32::MAX);
    let (circuit, retry_at, share, window) = match row {
        None => ("closed".to_owned(), None, 1.0, initial),
        Some((_, circuit, retry_at, stopped_until, share, window)) => {
            (circuit, retry_at.max(stopped_until), share, window.unwrap_or(initial))
        }
    };
    EndpointCondition { circuit, retry_at, rate: limit.map(|limit| limit * share), max_in_flight: window.min(bound) }
}
