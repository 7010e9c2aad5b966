//! `ack_on_success`: an event is acknowledged when each endpoint that it matched has accepted it, if one of them has
//! that set.
//!
//! Successes are stored in the transaction that finishes their delivery. When all are there, a task of any dispatcher
//! appends the ack record and deletes them: after a crash it appends it again, which changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::try_join_all;
use kafka::producer::{Producer, ProducerRecord, PublishError};
use schemas::ids::{EndpointId, EventId, OrgId};
use schemas::records::Ack;
use schemas::{codec, headers};
use sqlx::postgres::{PgConnection, PgPool};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::delivery::{Delivery, signed};

/// Acks that are in flight at once.
const BATCH_ROWS: i64 = 200;
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How long a dispatcher has for a batch.
const LEASE: Duration = Duration::from_secs(30);
/// After an error of Kafka or the database.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Rows that one sweep deletes at most.
const SWEEP_ROWS: i64 = 1000;

/// An endpoint has accepted an event, in an organization with `ack_on_success`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Success {
    pub org_id: OrgId,
    pub event_id: EventId,
    pub endpoint: EndpointId,
    /// Endpoints that the event matched.
    pub matched: u32,
    pub accepted_at: OffsetDateTime,
}

impl Success {
    /// `None`: the organization does not acknowledge by success.
    pub(crate) fn of(delivery: &Delivery) -> Option<Self> {
        let event = &delivery.event;
        let matched = event.endpoints_matched.filter(|_| event.counts_successes)?;
        let (org_id, event_id, endpoint) = (event.org_id, event.event_id, delivery.endpoint_id);
        Some(Self { org_id, event_id, endpoint, matched, accepted_at: event.accepted_at })
    }
}

/// Stores successes. Storing one again changes nothing, unless the event was acknowledged meanwhile: then it waits for
/// the others until its event leaves the view, or it is acknowledged again.
pub(crate) async fn store(connection: &mut PgConnection, successes: &[Success]) -> Result<(), sqlx::Error> {
    // In this order, so that two transactions lock rows in one order. A row changes once in a statement.
    let mut events: BTreeMap<(OrgId, EventId), Vec<&Success>> = BTreeMap::new();
    for success in successes {
        events.entry((success.org_id, success.event_id)).or_default().push(success);
    }
    // Each round has one success of each event.
    for round in 0..events.values().map(Vec::len).max().unwrap_or(0) {
        let batch: Vec<&Success> = events.values().filter_map(|of_event| of_event.get(round).copied()).collect();
        store_batch(connection, &batch).await?;
    }
    Ok(())
}

async fn store_batch(connection: &mut PgConnection, successes: &[&Success]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO delivery_successes AS s (org_id, event_id, matched, endpoints, accepted_at)
         SELECT org_id, event_id, matched, ARRAY[endpoint_id], accepted_at
         FROM UNNEST($1::uuid[], $2::uuid[], $3::integer[], $4::uuid[], $5::timestamptz[])
              AS t (org_id, event_id, matched, endpoint_id, accepted_at)
         ON CONFLICT (org_id, event_id) DO UPDATE SET endpoints = s.endpoints || EXCLUDED.endpoints
         WHERE NOT s.endpoints @> EXCLUDED.endpoints",
    )
    .bind(successes.iter().map(|one| one.org_id.as_uuid()).collect::<Vec<_>>())
    .bind(successes.iter().map(|one| one.event_id.as_uuid()).collect::<Vec<_>>())
    .bind(successes.iter().map(|one| signed(one.matched)).collect::<Vec<_>>())
    .bind(successes.iter().map(|one| one.endpoint.as_uuid()).collect::<Vec<_>>())
    .bind(successes.iter().map(|one| one.accepted_at).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Acknowledges events until `shutdown`. Every dispatcher may run this.
pub(crate) async fn run(pool: PgPool, producer: Producer, topic: String, shutdown: CancellationToken) {
    let working = async {
        loop {
            let pause = match step(&pool, &producer, &topic).await {
                Ok(true) => continue,
                Ok(false) => POLL_INTERVAL,
                Err(error) => {
                    warn!(%error, "Events whose webhooks were accepted are not acknowledged yet; trying again.");
                    RETRY_INTERVAL
                }
            };
            tokio::time::sleep(pause).await;
        }
    };
    shutdown.run_until_cancelled(working).await;
}

#[derive(Debug, thiserror::Error)]
enum AckError {
    #[error("PostgreSQL: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("Kafka: {0}")]
    Kafka(#[from] PublishError),
    #[error("the record cannot be encoded: {0}")]
    Encode(#[from] codec::EncodeError),
}

/// Acknowledges one batch. `true`: there may be more.
async fn step(pool: &PgPool, producer: &Producer, topic: &str) -> Result<bool, AckError> {
    let complete = claim(pool).await?;
    let append = async |(org_id, event_id): (Uuid, Uuid)| {
        let ack = Ack { org_id: OrgId::from_uuid(org_id), event_id: EventId::from_uuid(event_id) };
        let (key, value) = (ack.org_id.to_string(), codec::encode_ack(&ack)?);
        let headers = [(headers::CONTENT_TYPE, headers::CONTENT_TYPE_AVRO.as_bytes())];
        let record = ProducerRecord { topic, key: Some(key.as_bytes()), value: Some(&value), headers: &headers };
        producer.publish(record).await?;
        Ok::<(), AckError>(())
    };
    let wanted = complete.iter().filter(|(.., is_wanted)| *is_wanted);
    try_join_all(wanted.map(|(org_id, event_id, _)| append((*org_id, *event_id)))).await?;
    delete(pool, &complete).await?;
    Ok(complete.len() >= BATCH_ROWS as usize)
}

/// Events that all have accepted, and whether one of the endpoints wants them to be acknowledged. No other dispatcher
/// gets them before the lease ends.
async fn claim(pool: &PgPool) -> Result<Vec<(Uuid, Uuid, bool)>, sqlx::Error> {
    sqlx::query_as(
        "WITH complete AS MATERIALIZED (
             SELECT org_id, event_id FROM delivery_successes
             WHERE cardinality(endpoints) >= matched AND due_at <= now()
             ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
         )
         UPDATE delivery_successes s SET due_at = now() + make_interval(secs => $2)
         FROM complete WHERE s.org_id = complete.org_id AND s.event_id = complete.event_id
         RETURNING s.org_id, s.event_id,
                   EXISTS (SELECT FROM endpoints e WHERE e.id = ANY (s.endpoints) AND e.ack_on_success) AS is_wanted",
    )
    .persistent(false)
    .bind(BATCH_ROWS)
    .bind(LEASE.as_secs_f64())
    .fetch_all(pool)
    .await
}

async fn delete(pool: &PgPool, events: &[(Uuid, Uuid, bool)]) -> Result<(), sqlx::Error> {
    if events.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM delivery_successes s USING UNNEST($1::uuid[], $2::uuid[]) AS t (org_id, event_id)
         WHERE s.org_id = t.org_id AND s.event_id = t.event_id",
    )
    .bind(events.iter().map(|(org_id, ..)| *org_id).collect::<Vec<_>>())
    .bind(events.iter().map(|(_, event_id, _)| *event_id).collect::<Vec<_>>())
    .execute(pool)
    .await?;
    Ok(())
}

/// Deletes successes of events that have left the view.
pub(crate) async fn sweep(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut swept = u64::MAX;
    while swept > 0 {
        swept = sqlx::query(
            "DELETE FROM delivery_successes WHERE (org_id, event_id) IN (
                 SELECT org_id, event_id FROM delivery_successes
                 WHERE accepted_at < (SELECT floor FROM contract.retention_floor)
                 ORDER BY accepted_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
        )
        .persistent(false)
        .bind(SWEEP_ROWS)
        .execute(pool)
        .await?
        .rows_affected();
    }
    Ok(())
}

/// Deletes the successes of an organization, at most a batch. Returns their number.
pub(crate) async fn erase(connection: &mut PgConnection, org_id: OrgId) -> Result<u64, sqlx::Error> {
    let erased = sqlx::query(
        "DELETE FROM delivery_successes WHERE (org_id, event_id) IN (
             SELECT org_id, event_id FROM delivery_successes WHERE org_id = $1 LIMIT $2)",
    )
    .bind(org_id.as_uuid())
    .bind(SWEEP_ROWS)
    .execute(connection)
    .await?;
    Ok(erased.rows_affected())
}

#[cfg(test)]
mod tests;
