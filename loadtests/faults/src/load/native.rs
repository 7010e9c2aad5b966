//! Writes events and acknowledgements to Kafka: as JSON with a `dedup_id`, some of them repeated on purpose, and as
//! Avro.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders, Timestamp};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::RDKafkaErrorCode;
use schemas::codec;
use schemas::headers::{CONTENT_TYPE, CONTENT_TYPE_AVRO, CONTENT_TYPE_JSON};
use schemas::ids::{EventId, OrgId};
use schemas::records::{Ack, Event};
use serde_json::json;
use uuid::Uuid;

use super::sender::Sender;
use crate::ledger::SendOutcome;

/// After this time the outcome of a record is unknown, in milliseconds.
const DELIVERY_MS: &str = "15000";
/// How long the queue of the producer may be full.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(15);
/// Every n-th record is written again on purpose.
const REPEAT_EVERY: u64 = 7;
/// Wait before a retry.
const PAUSE: Duration = Duration::from_millis(200);

/// A producer with the options that `docs/kafka-producers.md` asks for.
pub(super) fn producer(brokers: &str) -> anyhow::Result<FutureProducer> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random");
    config.set("message.timeout.ms", DELIVERY_MS).set("linger.ms", "2").set("reconnect.backoff.max.ms", "1000");
    // A request to a halted broker fails after this time, and the producer refreshes its metadata.
    config.set("socket.timeout.ms", "6000");
    config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
    Ok(config.create()?)
}

/// Sends until the sender has to stop: JSON with a `dedup_id` and Avro without a name in turns.
pub(super) async fn send(mut sender: Sender, producer: FutureProducer) {
    for seq in 0.. {
        let started = Instant::now();
        let tag = sender.tag(seq);
        let is_json = seq % 2 == 0;
        let accepted = until_written(&sender, &producer, &tag, is_json).await;
        // A duplicate on purpose: the producer writes the same record again.
        if accepted && is_json && seq % REPEAT_EVERY == 0 {
            once(&sender, &producer, &tag, is_json).await;
        }
        if !sender.wait_for_turn(started).await {
            return;
        }
    }
}

/// Writes a named record until Kafka confirms it, and an unnamed one once. Returns whether it was confirmed.
async fn until_written(sender: &Sender, producer: &FutureProducer, tag: &str, is_json: bool) -> bool {
    loop {
        match once(sender, producer, tag, is_json).await {
            SendOutcome::Accepted { .. } => return true,
            _ if !is_json || sender.is_stopping() => return false,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn once(sender: &Sender, producer: &FutureProducer, tag: &str, is_json: bool) -> SendOutcome {
    let Some(tenant) = sender.tenant() else { return SendOutcome::Refused };
    let (value, own_id) =
        if is_json { (sender.body(tag, true).into_bytes(), None) } else { avro(sender, tag, tenant.org) };
    let content_type = if is_json { CONTENT_TYPE_JSON } else { CONTENT_TYPE_AVRO };
    let topic = &sender.context.topics.events;
    let started = Instant::now();
    let written = write(producer, topic, tenant.org, &value, content_type).await;
    let outcome = match written {
        Ok(AppendedAt { partition, offset, timestamp_ms }) => {
            // Kafka does not always report offset and time. Then only the log has the id.
            let appended_at = (offset >= 0).then_some(timestamp_ms).flatten();
            let id = own_id.or_else(|| {
                appended_at.map(|at| EventId::derived_from_position(topic, partition, offset, at).as_uuid())
            });
            SendOutcome::Accepted { id, replayed: false }
        }
        Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => SendOutcome::Refused,
        Err(_) => SendOutcome::Unknown,
    };
    sender.record(tag, started, outcome.clone());
    outcome
}

/// A record as Triggers itself writes it, with an id from the producer.
fn avro(sender: &Sender, tag: &str, org: Uuid) -> (Vec<u8>, Option<Uuid>) {
    let event_id = EventId::generate();
    let event = Event {
        org_id: OrgId::from_uuid(org),
        event_id,
        event_type: "fault.native".to_owned(),
        payload: json!({"tag": tag, "org": org}).to_string(),
        payload_encoding: None,
        occurred_at: None,
        source: None,
        ordering_key: Some(format!("key-{}", sender.number)),
        metadata: std::collections::BTreeMap::new(),
        dedup: None,
        traceparent: None,
    };
    // This event can always be encoded. An empty value would be reported as a lost event.
    (codec::encode_event(&event).unwrap_or_default(), Some(event_id.as_uuid()))
}

/// Writes an acknowledgement as JSON or as Avro. Returns whether Kafka confirmed it.
pub(super) async fn acknowledge(producer: &FutureProducer, topic: &str, org: Uuid, event: Uuid, is_json: bool) -> bool {
    let ack = Ack { org_id: OrgId::from_uuid(org), event_id: EventId::from_uuid(event) };
    let value = if is_json {
        json!({"event_id": event}).to_string().into_bytes()
    } else {
        codec::encode_ack(&ack).unwrap_or_default()
    };
    let content_type = if is_json { CONTENT_TYPE_JSON } else { CONTENT_TYPE_AVRO };
    write(producer, topic, org, &value, content_type).await.is_ok()
}

/// Where Kafka appended a record.
struct AppendedAt {
    partition: i32,
    offset: i64,
    timestamp_ms: Option<i64>,
}

async fn write(
    producer: &FutureProducer,
    topic: &str,
    org: Uuid,
    value: &[u8],
    content_type: &str,
) -> Result<AppendedAt, KafkaError> {
    let key = org.to_string();
    let headers = OwnedHeaders::new().insert(Header { key: CONTENT_TYPE, value: Some(content_type) });
    let record = FutureRecord::to(topic).key(&key).payload(value).headers(headers);
    let delivery = producer.send(record, QUEUE_TIMEOUT).await.map_err(|(error, _)| error)?;
    let timestamp_ms = match delivery.timestamp {
        Timestamp::NotAvailable => None,
        Timestamp::CreateTime(_) => None,
        Timestamp::LogAppendTime(at) => Some(at),
    };
    Ok(AppendedAt { partition: delivery.partition, offset: delivery.offset, timestamp_ms })
}
