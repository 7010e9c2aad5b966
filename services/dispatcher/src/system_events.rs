//! The system's own events. They are written to `system_events` in the transaction of what they report, and appended to
//! the log from there, signed. Only processes that may write events append them, and any of them does; the event id is
//! in the row, so an event that is appended twice has one id, and consumers see it once.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka::producer::{Producer, ProducerRecord, PublishError};
use runtime::lifecycle::Supervisor;
use schemas::ids::{EventId, OrgId};
use schemas::native::SystemKey;
use schemas::records::Event;
use schemas::{codec, headers};
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgExecutor, PgPool};
use tracing::{debug, error, info, warn};
use uuid::Uuid;

/// Type of the event that an endpoint was disabled.
pub(crate) const ENDPOINT_DISABLED: &str = "triggers.endpoint.disabled";
const INTERVAL: Duration = Duration::from_secs(1);
/// Events of one transaction.
const BATCH_ROWS: i64 = 50;
const SOURCE: &str = "triggers";

/// Adds an event, to be appended after the transaction.
pub(crate) async fn add(
    connection: &mut PgConnection,
    org_id: OrgId,
    event_type: &str,
    payload: &Value,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO system_events (event_id, org_id, event_type, payload) VALUES ($1, $2, $3, $4)")
        .bind(EventId::generate().as_uuid())
        .bind(org_id.as_uuid())
        .bind(event_type)
        .bind(payload.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// Deletes what there is of an organization. Returns how many rows.
pub(crate) async fn erase(connection: &mut PgConnection, org_id: OrgId) -> Result<u64, sqlx::Error> {
    let erased = sqlx::query("DELETE FROM system_events WHERE org_id = $1").bind(org_id.as_uuid());
    Ok(erased.execute(connection).await?.rows_affected())
}

/// The key that signs. It never changes.
pub(crate) async fn read_key(executor: impl PgExecutor<'_>) -> Result<SystemKey, sqlx::Error> {
    let key: Vec<u8> = sqlx::query_scalar("SELECT key FROM system_event_key").fetch_one(executor).await?;
    let bytes = key.try_into().map_err(|_| sqlx::Error::Decode("the key of system events has not 32 bytes".into()))?;
    Ok(SystemKey::from_bytes(bytes))
}

/// Starts the task `system events` under `supervisor`: it appends events of the system to `topic`, the events topic.
/// Every process that may write events runs it.
pub fn append_system_events(supervisor: &mut Supervisor, pool: PgPool, producer: Producer, topic: String) {
    let shutdown = supervisor.shutdown();
    supervisor.spawn("system events", async move {
        shutdown.run_until_cancelled(append_all(&pool, &producer, &topic)).await;
        Ok(())
    });
}

async fn append_all(pool: &PgPool, producer: &Producer, topic: &str) {
    loop {
        match append(pool, producer, topic).await {
            Ok(0) => {}
            Ok(events) => info!(events, "Events of the system appended to the log."),
            Err(AppendError::Database(error)) => {
                debug!(%error, "Events of the system could not be read; trying again in a second.");
            }
            Err(error) => warn!(%error, "Events of the system not appended; trying again in a second."),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum AppendError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("Kafka: {0}")]
    Kafka(PublishError),
}

/// Appends a batch, and deletes the rows of those that Kafka has. Returns how many.
async fn append(pool: &PgPool, producer: &Producer, topic: &str) -> Result<usize, AppendError> {
    let mut transaction = runtime::postgres::begin(pool).await?;
    let rows: Vec<(Uuid, Uuid, String, String)> = sqlx::query_as(
        "SELECT event_id, org_id, event_type, payload FROM system_events
         ORDER BY created_at LIMIT $1 FOR UPDATE SKIP LOCKED",
    )
    .bind(BATCH_ROWS)
    .fetch_all(&mut *transaction)
    .await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let key = read_key(&mut *transaction).await?;
    let (mut appended, mut outcome) = (Vec::new(), Ok(()));
    for (event_id, org_id, event_type, payload) in rows {
        let event = event(EventId::from_uuid(event_id), OrgId::from_uuid(org_id), event_type, payload);
        match publish(producer, topic, &key, &event).await {
            Ok(()) => appended.push(event_id),
            // A right is missing, for example: the row waits until the operator has granted it.
            Err(error @ PublishError::Rejected(_)) => outcome = Err(AppendError::Kafka(error)),
            Err(error) => {
                outcome = Err(AppendError::Kafka(error));
                break;
            }
        }
    }
    sqlx::query("DELETE FROM system_events WHERE event_id = ANY ($1)")
        .bind(&appended)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    outcome.map(|()| appended.len())
}

fn event(event_id: EventId, org_id: OrgId, event_type: String, payload: String) -> Event {
    Event {
        org_id,
        event_id,
        event_type,
        payload,
        payload_encoding: None,
        occurred_at: None,
        source: Some(SOURCE.to_owned()),
        ordering_key: None,
        metadata: BTreeMap::new(),
        dedup: None,
        traceparent: None,
    }
}

async fn publish(producer: &Producer, topic: &str, key: &SystemKey, event: &Event) -> Result<(), PublishError> {
    let value = match codec::encode_event(event) {
        Ok(value) => value,
        Err(error) => {
            error!(%error, event_id = %event.event_id, "Event of the system could not be encoded; dropping it.");
            return Ok(());
        }
    };
    let (org_id, signature) = (event.org_id.to_string(), key.sign(&value));
    let headers = [
        (headers::CONTENT_TYPE, headers::CONTENT_TYPE_AVRO.as_bytes()),
        (headers::SYSTEM_SIGNATURE, signature.as_bytes()),
    ];
    let record = ProducerRecord { topic, key: Some(org_id.as_bytes()), value: Some(&value), headers: &headers };
    producer.publish(record).await.map(drop)
}
