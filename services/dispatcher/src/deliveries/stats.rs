//! `GET /endpoints/{id}/stats`: figures of an endpoint. Each statement reads a bounded number of rows.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http_server::{PathId, Problem, QueryParams, Timestamp};
use schemas::ids::{EndpointId, OrgId};
use serde::Serialize;
use sqlx::postgres::PgPool;
use tenancy::Manager;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{DeliveriesState, condition};
use crate::endpoints::store::{self, StoredEndpoint};

/// Deliveries of one state are counted up to this number.
const MAX_COUNTED: i64 = 10_000;
/// Latencies are those of so many of the newest deliveries.
const SAMPLED: i64 = 500;
/// Attempts of one delivery in the sample.
const ATTEMPTS_SAMPLED: i64 = 30;

/// Figures of an endpoint, of deliveries whose first attempt was in the window.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EndpointStats, example = json!({
    "window": "24h",
    "delivered": 980,
    "failed": 20,
    "retrying": 3,
    "counts_are_lower_bounds": false,
    "success_share": 0.98,
    "p50_ms": 12.0,
    "p95_ms": 48.0,
    "last_success_at": "2026-11-21T09:00:00.123Z",
    "last_error": "the endpoint answered 503",
    "circuit": "closed",
    "circuit_retry_at": null,
    "rate_limit_per_second": 50,
    "current_rate_per_second": 25.0,
    "max_in_flight": 16
}))]
pub(super) struct StatsBody {
    #[schema(value_type = StatsWindow)]
    window: &'static str,
    /// Up to 10,000.
    delivered: i64,
    /// Up to 10,000.
    failed: i64,
    /// Those that wait for their next attempt, up to 10,000.
    retrying: i64,
    /// One of the counts is 10,000 and may be more.
    counts_are_lower_bounds: bool,
    /// Delivered ones of the newest 10,000 that were delivered or failed; null without any.
    success_share: Option<f64>,
    /// Median latency of the attempts of the newest 500 deliveries; null without any.
    p50_ms: Option<f64>,
    /// Their 95th percentile.
    p95_ms: Option<f64>,
    /// Start of the latest attempt that succeeded, of the newest 1,000 that are delivered; also before the window.
    last_success_at: Option<Timestamp>,
    /// Error of the newest delivery that failed or waits for its next attempt, also before the window.
    last_error: Option<String>,
    /// Whether attempts start: `closed`: yes, unless `circuit_retry_at` names a time to come; `open`: none until
    /// `circuit_retry_at`; `half_open`: one probes the endpoint. This and what follows is as of about a second ago.
    #[schema(value_type = CircuitName)]
    circuit: String,
    /// When the next attempt starts: of an open circuit, or after a pause that the endpoint asked for with 429 and
    /// `Retry-After`. Null: nothing is waited for.
    circuit_retry_at: Option<Timestamp>,
    /// Null: no limit.
    rate_limit_per_second: Option<i32>,
    /// Less than the limit after the endpoint answered 429 or 503, or not at all. Null: no limit.
    current_rate_per_second: Option<f64>,
    /// Attempts that may be in flight at the same time. It adapts to the answers.
    max_in_flight: i32,
}

/// State of the circuit of an endpoint.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes a member of a response")]
enum CircuitName {
    Closed,
    Open,
    HalfOpen,
}

/// A time that ends now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
enum StatsWindow {
    #[schema(rename = "1h")]
    Hour,
    #[schema(rename = "24h")]
    Day,
    #[schema(rename = "7d")]
    Week,
}

impl StatsWindow {
    const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Week];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::Day => "24h",
            Self::Week => "7d",
        }
    }

    const fn duration(self) -> Duration {
        let hours = match self {
            Self::Hour => 1,
            Self::Day => 24,
            Self::Week => 7 * 24,
        };
        Duration::from_secs(hours * 3600)
    }
}

/// Read the figures of an endpoint
///
/// A key that is restricted to event types may not: the figures are of all types.
#[utoipa::path(
    get, path = "/endpoints/{id}/stats", operation_id = "get_endpoint_stats", tag = "Webhooks",
    params(
        ("id" = EndpointId, Path, description = "Id of the endpoint."),
        ("window" = inline(Option<StatsWindow>), Query, description = "Default 24h.", example = "24h"),
    ),
    responses((status = 200, description = "The figures.", body = StatsBody)),
    security(("key" = ["manage"])),
)]
pub(super) async fn stats(
    Manager(caller): Manager,
    State(state): State<DeliveriesState>,
    PathId(id): PathId<EndpointId>,
    params: QueryParams,
) -> Result<Json<StatsBody>, Problem> {
    if caller.event_types.is_some() {
        return Err(Problem::forbidden(
            "a key that is restricted to event types may not see the figures of an endpoint: they are of all types",
        ));
    }
    let window = match params.one("window")? {
        None => StatsWindow::Day,
        Some(text) => StatsWindow::ALL
            .into_iter()
            .find(|window| window.as_str() == text)
            .ok_or_else(|| QueryParams::invalid("window", "must be 1h, 24h or 7d"))?,
    };
    let found = caller
        .shares()
        .read::<_, sqlx::Error>(async {
            match store::get(&state.pool, caller.org_id, id).await? {
                Some(endpoint) => read(&state.pool, &endpoint, window).await.map(Some),
                None => Ok(None),
            }
        })
        .await?;
    found.map(Json).ok_or_else(Problem::not_found)
}

async fn read(pool: &PgPool, stored: &StoredEndpoint, window: StatsWindow) -> Result<StatsBody, sqlx::Error> {
    let (organization, endpoint) = (stored.org_id, stored.id);
    let condition = condition::read(pool, stored).await?;
    let since = OffsetDateTime::now_utc() - window.duration();
    let (delivered, failed, retrying, success_share) = counts(pool, organization, endpoint, since).await?;
    let percentiles = latencies(pool, organization, endpoint, since).await?.unwrap_or_default();
    let (last_success_at, last_error) = last(pool, organization, endpoint).await?;
    Ok(StatsBody {
        window: window.as_str(),
        delivered,
        failed,
        retrying,
        counts_are_lower_bounds: [delivered, failed, retrying].contains(&MAX_COUNTED),
        success_share,
        p50_ms: percentiles.first().copied(),
        p95_ms: percentiles.get(1).copied(),
        last_success_at: last_success_at.map(Timestamp),
        last_error,
        circuit: condition.circuit,
        circuit_retry_at: condition.retry_at.map(Timestamp),
        rate_limit_per_second: stored.rate_limit_per_second,
        current_rate_per_second: condition.rate,
        max_in_flight: condition.max_in_flight,
    })
}

/// Delivered, failed and retrying ones, and the share of delivered ones.
async fn counts(
    pool: &PgPool,
    organization: OrgId,
    endpoint: EndpointId,
    since: OffsetDateTime,
) -> Result<(i64, i64, i64, Option<f64>), sqlx::Error> {
    sqlx::query_as(
        "WITH counted AS MATERIALIZED (
             SELECT wanted.status, d.created_at
             FROM UNNEST(ARRAY['delivered', 'failed', 'retrying']) AS wanted (status) CROSS JOIN LATERAL (
                 SELECT d.created_at FROM contract.deliveries d
                 WHERE d.org_id = $1 AND d.endpoint_id = $2 AND d.status = wanted.status AND d.created_at >= $3
                 ORDER BY d.created_at DESC, d.delivery_id DESC LIMIT $4) AS d
         ), ended AS (
             SELECT status FROM counted WHERE status <> 'retrying' ORDER BY created_at DESC LIMIT $4
         )
         SELECT (SELECT count(*) FROM counted WHERE status = 'delivered'),
                (SELECT count(*) FROM counted WHERE status = 'failed'),
                (SELECT count(*) FROM counted WHERE status = 'retrying'),
                (SELECT count(*) FILTER (WHERE status = 'delivered')::double precision / NULLIF(count(*), 0)
                 FROM ended)",
    )
    .bind(organization.as_uuid())
    .bind(endpoint.as_uuid())
    .bind(since)
    .bind(MAX_COUNTED)
    .fetch_one(pool)
    .await
}

/// The median and the 95th percentile, milliseconds.
async fn latencies(
    pool: &PgPool,
    organization: OrgId,
    endpoint: EndpointId,
    since: OffsetDateTime,
) -> Result<Option<Vec<f64>>, sqlx::Error> {
    sqlx::query_scalar(
        "WITH newest AS MATERIALIZED (
             SELECT d.delivery_id
             FROM UNNEST(ARRAY['delivered', 'failed', 'retrying']) AS wanted (status) CROSS JOIN LATERAL (
                 SELECT d.delivery_id, d.created_at FROM contract.deliveries d
                 WHERE d.org_id = $1 AND d.endpoint_id = $2 AND d.status = wanted.status AND d.created_at >= $3
                 ORDER BY d.created_at DESC, d.delivery_id DESC LIMIT $4) AS d
             ORDER BY d.created_at DESC LIMIT $4
         )
         SELECT percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY a.latency_ms::double precision)
         FROM newest CROSS JOIN LATERAL (
             SELECT a.latency_ms FROM contract.delivery_attempts a
             WHERE a.org_id = $1 AND a.delivery_id = newest.delivery_id AND a.outcome <> 'cancelled' LIMIT $5) AS a",
    )
    .bind(organization.as_uuid())
    .bind(endpoint.as_uuid())
    .bind(since)
    .bind(SAMPLED)
    .bind(ATTEMPTS_SAMPLED)
    .fetch_one(pool)
    .await
}

/// A delivery that was retried may be an older one. All of them would be too many to read.
const NEWEST_DELIVERED: i64 = 1_000;

/// The time of the last success, among the newest deliveries, and the last error.
async fn last(
    pool: &PgPool,
    organization: OrgId,
    endpoint: EndpointId,
) -> Result<(Option<OffsetDateTime>, Option<String>), sqlx::Error> {
    sqlx::query_as(
        "SELECT (SELECT max(d.last_started_at) FROM (
                     SELECT d.last_started_at FROM contract.deliveries d
                     WHERE d.org_id = $1 AND d.endpoint_id = $2 AND d.status = 'delivered'
                     ORDER BY d.created_at DESC, d.delivery_id DESC LIMIT $3) AS d),
                (SELECT d.last_error FROM UNNEST(ARRAY['failed', 'retrying']) AS wanted (status) CROSS JOIN LATERAL (
                     SELECT d.last_error, d.last_started_at FROM contract.deliveries d
                     WHERE d.org_id = $1 AND d.endpoint_id = $2 AND d.status = wanted.status
                     ORDER BY d.created_at DESC, d.delivery_id DESC LIMIT 1) AS d
                 ORDER BY d.last_started_at DESC LIMIT 1)",
    )
    .bind(organization.as_uuid())
    .bind(endpoint.as_uuid())
    .bind(NEWEST_DELIVERED)
    .fetch_one(pool)
    .await
}
