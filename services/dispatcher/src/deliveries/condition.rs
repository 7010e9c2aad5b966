//! What dispatchers know of an endpoint now: its circuit, its rate, and how many attempts it may have in flight.

use std::collections::HashMap;

use schemas::ids::{EndpointId, OrgId};
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

/// Circuit, when it lets an attempt through, until when the endpoint wants a pause, current rate of its limit, attempts
/// in flight.
type ConditionRow = (String, Option<OffsetDateTime>, Option<OffsetDateTime>, f64, Option<i32>);

pub(super) async fn read(pool: &PgPool, endpoint: &StoredEndpoint) -> Result<EndpointCondition, sqlx::Error> {
    let row: Option<ConditionRow> = sqlx::query_as(
        "SELECT circuit, circuit_retry_at, CASE WHEN stopped_until > now() THEN stopped_until END,
                rate_share, max_in_flight
         FROM endpoint_conditions WHERE endpoint_id = $1",
    )
    .bind(endpoint.id.as_uuid())
    .fetch_optional(pool)
    .await?;
    Ok(of(endpoint, row))
}

/// Why nothing is sent to an endpoint now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blocked {
    /// Its circuit is open, or else it asked for a pause.
    pub circuit_is_open: bool,
    /// When the next attempt may start.
    pub until: OffsetDateTime,
}

/// The endpoints of an organization that get nothing now.
pub(super) async fn blocked(pool: &PgPool, org_id: OrgId) -> Result<HashMap<EndpointId, Blocked>, sqlx::Error> {
    let rows: Vec<(Uuid, bool, OffsetDateTime)> = sqlx::query_as(
        "SELECT c.endpoint_id, c.circuit = 'open', b.until
         FROM endpoints e JOIN endpoint_conditions c ON c.endpoint_id = e.id
           CROSS JOIN LATERAL (SELECT greatest(CASE WHEN c.circuit = 'open' THEN c.circuit_retry_at END,
                                               c.stopped_until) AS until) b
         WHERE e.org_id = $1 AND e.deleted_at IS NULL AND b.until > now()",
    )
    .bind(org_id.as_uuid())
    .fetch_all(pool)
    .await?;
    let blocked = |(id, circuit_is_open, until)| (EndpointId::from_uuid(id), Blocked { circuit_is_open, until });
    Ok(rows.into_iter().map(blocked).collect())
}

/// Without a row, nothing is known: the endpoint has what every endpoint starts with.
fn of(endpoint: &StoredEndpoint, row: Option<ConditionRow>) -> EndpointCondition {
    let initial = i32::try_from(INITIAL_WINDOW).unwrap_or(i32::MAX);
    let limit = endpoint.rate_limit_per_second.map(f64::from);
    let bound = endpoint.max_in_flight.unwrap_or(i32::MAX);
    let (circuit, retry_at, share, window) = match row {
        None => ("closed".to_owned(), None, 1.0, initial),
        Some((circuit, retry_at, stopped_until, share, window)) => {
            (circuit, retry_at.max(stopped_until), share, window.unwrap_or(initial))
        }
    };
    EndpointCondition { circuit, retry_at, rate: limit.map(|limit| limit * share), max_in_flight: window.min(bound) }
}
