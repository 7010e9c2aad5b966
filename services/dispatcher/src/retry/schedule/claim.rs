//! Claims due rows for an attempt.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use schemas::ids::{DeliveryId, EndpointId, EventId, OrgId};
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{FromRow, Row};
use uuid::Uuid;

use crate::delivery::{Delivery, OutboundEvent, Round};
use crate::lane::LaneKey;
use crate::retry::schedule::lanes;

/// A row that was claimed for an attempt.
#[derive(Debug, Clone)]
pub(crate) struct ClaimedRow {
    pub delivery: Delivery,
    /// Attempts made before.
    pub attempts: u32,
    pub lease: Uuid,
    /// Whether its event is acknowledged, so that no retry is needed.
    pub acknowledged: bool,
    /// Why no attempt is made any more.
    pub refusal: Option<String>,
}

/// What to claim of an endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub endpoint: EndpointId,
    pub max_rows: usize,
    pub lease: Duration,
    /// Also rows that are not due yet, but for those whose attempt is in flight.
    pub before_due: bool,
}

/// Claims rows. No other instance claims them before the lease ends. The queues of the endpoints are locked.
///
/// Of a lane only the first row is claimed. With `lanes_first`, lanes come before rows without a lane: the caller
/// changes it from time to time, so that neither waits for the other.
pub(crate) async fn claim(
    connection: &mut PgConnection,
    wanted: &[Wanted],
    lanes_first: bool,
) -> Result<Vec<ClaimedRow>, sqlx::Error> {
    let mut claimed = Vec::new();
    if lanes_first {
        claimed.extend(lanes::claim_first(connection, wanted).await?);
        claimed.extend(claim_without_lane(connection, &rest(wanted, &claimed)).await?);
    } else {
        claimed.extend(claim_without_lane(connection, wanted).await?);
        claimed.extend(lanes::claim_first(connection, &rest(wanted, &claimed)).await?);
    }
    let unordered: Vec<Wanted> = rest(wanted, &claimed).into_iter().filter(|one| one.before_due).collect();
    claimed.extend(lanes::claim_any(connection, &unordered).await?);
    Ok(claimed)
}

/// What is wanted besides what is claimed.
fn rest(wanted: &[Wanted], claimed: &[ClaimedRow]) -> Vec<Wanted> {
    let mut counts: HashMap<EndpointId, usize> = HashMap::new();
    claimed.iter().for_each(|row| *counts.entry(row.delivery.endpoint_id).or_default() += 1);
    let left = |one: &Wanted| {
        let max_rows = one.max_rows.saturating_sub(counts.get(&one.endpoint).copied().unwrap_or(0));
        (max_rows > 0).then_some(Wanted { max_rows, ..*one })
    };
    wanted.iter().filter_map(left).collect()
}

/// The statement that claims the rows of the given query, which selects `delivery_id` and `lease_seconds`.
///
/// Materialized, or a nested loop may pick rows several times: each time it would skip those that the statement has
/// claimed already, and claim more.
///
/// PostgreSQL cannot know how few rows are due: beside millions of them it might read all to join them. It expects
/// arrays to be short, and looks their elements up.
macro_rules! update_claimed {
    ($due:expr) => {
        concat!(
            "WITH due AS MATERIALIZED (",
            $due,
            ")
             UPDATE delivery_schedule AS s
             SET lease_id = gen_random_uuid(), due_at = now() + make_interval(secs => due.lease_seconds)
             FROM due JOIN delivery_schedule d ON d.delivery_id = due.delivery_id
                      LEFT JOIN delivery_events e ON e.log_partition = d.log_partition AND e.log_epoch = d.log_epoch
                                                     AND e.log_offset = d.log_offset
             WHERE s.delivery_id = due.delivery_id AND s.delivery_id = ANY (ARRAY(SELECT delivery_id FROM due))
                   AND d.delivery_id = ANY (ARRAY(SELECT delivery_id FROM due))
             RETURNING s.delivery_id, s.org_id, s.event_id, s.endpoint_id, s.event_type, s.accepted_at, e.payload,
                       e.payload_encoding, e.traceparent, e.hops, e.endpoints_matched, s.log_epoch, s.log_partition,
                       s.log_offset, s.attempts, s.attempts_before, s.round, s.lease_id, s.refusal, s.lane,
                       EXISTS (SELECT FROM contract.acknowledged a
                               WHERE a.org_id = s.org_id AND a.event_id = s.event_id) AS acknowledged"
        )
    };
}
pub(super) use update_claimed;

const CLAIM_WITHOUT_LANE: &str = update_claimed!(
    "SELECT picked.delivery_id, wanted.lease_seconds
     FROM UNNEST($1::uuid[], $2::bigint[], $3::double precision[], $4::boolean[])
          AS wanted (endpoint_id, max_rows, lease_seconds, before_due)
     JOIN endpoint_queues q ON q.endpoint_id = wanted.endpoint_id
     CROSS JOIN LATERAL (
         SELECT d.delivery_id FROM delivery_schedule d
         WHERE d.state = 'pending' AND d.refusal IS NULL AND d.lane IS NULL AND d.endpoint_id = wanted.endpoint_id
               AND d.due_at >= q.first_due_at
               AND (d.due_at <= now() OR wanted.before_due AND d.lease_id IS NULL)
         ORDER BY d.due_at LIMIT wanted.max_rows FOR UPDATE SKIP LOCKED
     ) AS picked"
);

async fn claim_without_lane(connection: &mut PgConnection, wanted: &[Wanted]) -> Result<Vec<ClaimedRow>, sqlx::Error> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_as(CLAIM_WITHOUT_LANE)
        .persistent(false)
        .bind(wanted.iter().map(|one| one.endpoint.as_uuid()).collect::<Vec<_>>())
        .bind(wanted.iter().map(|one| i64::try_from(one.max_rows).unwrap_or(i64::MAX)).collect::<Vec<_>>())
        .bind(wanted.iter().map(|one| one.lease.as_secs_f64()).collect::<Vec<_>>())
        .bind(wanted.iter().map(|one| one.before_due).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
}

/// A row of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chosen {
    pub delivery: DeliveryId,
    pub lease: Duration,
}

const CLAIM_CHOSEN: &str = update_claimed!(
    "SELECT picked.delivery_id, chosen.lease_seconds
     FROM UNNEST($1::uuid[], $2::double precision[]) AS chosen (delivery_id, lease_seconds)
     CROSS JOIN LATERAL (
         SELECT d.delivery_id FROM delivery_schedule d
         WHERE d.delivery_id = chosen.delivery_id AND d.state = 'pending' AND d.refusal IS NULL AND d.due_at <= now()
         FOR UPDATE SKIP LOCKED
     ) AS picked"
);

/// Claims those of the chosen rows that are still due. The queues of their endpoints are locked.
pub(crate) async fn claim_chosen(
    connection: &mut PgConnection,
    chosen: &[Chosen],
) -> Result<Vec<ClaimedRow>, sqlx::Error> {
    if chosen.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_as(CLAIM_CHOSEN)
        .persistent(false)
        .bind(chosen.iter().map(|one| one.delivery.as_uuid()).collect::<Vec<_>>())
        .bind(chosen.iter().map(|one| one.lease.as_secs_f64()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await
}

/// Claims refused rows, of any endpoint.
pub(crate) async fn claim_refused(
    pool: &PgPool,
    max_rows: usize,
    lease: Duration,
) -> Result<Vec<ClaimedRow>, sqlx::Error> {
    sqlx::query_as(
        "UPDATE delivery_schedule
         SET lease_id = gen_random_uuid(), due_at = now() + make_interval(secs => $2)
         WHERE delivery_id = ANY (ARRAY(
             SELECT delivery_id FROM delivery_schedule
             WHERE state = 'pending' AND refusal IS NOT NULL AND due_at <= now()
             ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED))
         RETURNING delivery_id, org_id, event_id, endpoint_id, event_type, accepted_at, NULL AS payload,
                   NULL AS payload_encoding, NULL AS traceparent, NULL::integer AS hops,
                   NULL::integer AS endpoints_matched, log_epoch, log_partition, log_offset, attempts,
                   attempts_before, round, lease_id, refusal, lane, false AS acknowledged",
    )
    .persistent(false)
    .bind(i64::try_from(max_rows).unwrap_or(i64::MAX))
    .bind(lease.as_secs_f64())
    .fetch_all(pool)
    .await
}

impl FromRow<'_, PgRow> for ClaimedRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let payload: Option<String> = row.try_get("payload")?;
        let refusal: Option<String> = row.try_get("refusal")?;
        // An event is deleted with its last row, so this cannot happen. A webhook without its payload would be worse.
        let refusal = refusal.or_else(|| payload.is_none().then(|| "the event is no longer stored".to_owned()));
        let event = OutboundEvent {
            org_id: OrgId::from_uuid(row.try_get("org_id")?),
            event_id: EventId::from_uuid(row.try_get("event_id")?),
            event_type: row.try_get("event_type")?,
            accepted_at: row.try_get("accepted_at")?,
            payload: payload.unwrap_or_default(),
            payload_encoding: row.try_get::<Option<String>, _>("payload_encoding")?.map(Cow::Owned),
            traceparent: row.try_get("traceparent")?,
            hops: row.try_get::<Option<i32>, _>("hops")?.unwrap_or(0),
            endpoints_matched: row.try_get::<Option<i32>, _>("endpoints_matched")?.and_then(|n| u32::try_from(n).ok()),
            counts_successes: false,
            log_epoch: row.try_get("log_epoch")?,
            partition: row.try_get("log_partition")?,
            offset: row.try_get("log_offset")?,
        };
        let endpoint_id = EndpointId::from_uuid(row.try_get("endpoint_id")?);
        let id = DeliveryId::from_uuid(row.try_get("delivery_id")?);
        let number = |column| row.try_get::<i32, _>(column).map(|number| u32::try_from(number).unwrap_or(0));
        let round = Round { number: number("round")?, attempts_before: number("attempts_before")? };
        let lane = row.try_get::<Option<Uuid>, _>("lane")?.map(LaneKey::from_uuid);
        Ok(Self {
            delivery: Delivery { id, endpoint_id, event: Arc::new(event), round, lane },
            attempts: number("attempts")?,
            lease: row.try_get("lease_id")?,
            acknowledged: row.try_get("acknowledged")?,
            refusal,
        })
    }
}
