//! Events and acknowledgements written to Kafka itself: JSON and Avro, named and not, some of them repeated on purpose.

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

use super::Sender;
use crate::faults::ledger::{Outcome, Sent};

/// How long a record may take until its outcome counts as unknown, milliseconds.
const DELIVERY_MS: &str = "15000";
/// How long the queue of the producer may be full.
const QUEUE: Duration = Duration::from_secs(15);
/// One record in so many is written again on purpose.
const REPEAT_EVERY: u64 = 7;
/// Wait after a record that was not taken.
const PAUSE: Duration = Duration::from_millis(200);

/// A producer as the documents want one.
pub fn producer(brokers: &str) -> anyhow::Result<FutureProducer> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random");
    config.set("message.timeout.ms", DELIVERY_MS).set("linger.ms", "2").set("reconnect.backoff.max.ms", "1000");
    // A broker that is halted is given up after this long, and asked again where the leader is.
    config.set("socket.timeout.ms", "6000");
    config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
    Ok(config.create()?)
}

/// Sends until told to end: JSON with a `dedup_id`, repeated at times, and Avro without a name, in turns.
pub async fn send(mut sender: Sender, producer: FutureProducer) {
    for seq in 0.. {
        let begun = Instant::now();
        let tag = sender.tag(seq);
        let is_json = seq % 2 == 0;
        let accepted = until_written(&sender, &producer, &tag, is_json).await;
        // Twins on purpose: a native producer that writes its record again.
        if accepted && is_json && seq % REPEAT_EVERY == 0 {
            once(&sender, &producer, &tag, is_json).await;
        }
        if !sender.turn(begun).await {
            return;
        }
    }
}

/// A record with a name is written until Kafka confirms it; one without only once.
async fn until_written(sender: &Sender, producer: &FutureProducer, tag: &str, is_json: bool) -> bool {
    loop {
        match once(sender, producer, tag, is_json).await {
            Outcome::Accepted { .. } => return true,
            _ if !is_json || sender.stopping() => return false,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn once(sender: &Sender, producer: &FutureProducer, tag: &str, is_json: bool) -> Outcome {
    let Some(tenant) = sender.tenant() else { return Outcome::Refused };
    let (value, own_id) =
        if is_json { (sender.body(tag, true).into_bytes(), None) } else { avro(sender, tag, tenant.org) };
    let content_type = if is_json { CONTENT_TYPE_JSON } else { CONTENT_TYPE_AVRO };
    let topic = &sender.ground.topics.events;
    let begun = Instant::now();
    let written = write(producer, topic, tenant.org, &value, content_type).await;
    let outcome = match written {
        Ok(Place { partition, offset, timestamp_ms }) => {
            // Kafka does not always say where; then only the log knows the id.
            let told = (offset >= 0).then_some(timestamp_ms).flatten();
            let id = own_id.or_else(|| told.map(|at| EventId::of_place(topic, partition, offset, at).as_uuid()));
            Outcome::Accepted { id, replayed: false }
        }
        Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => Outcome::Refused,
        Err(_) => Outcome::Unknown,
    };
    let (tenant, number) = (sender.tenant, sender.number);
    sender.ground.ledger.note(Sent {
        tenant,
        sender: number,
        tag: tag.to_owned(),
        begun,
        ended: Instant::now(),
        outcome: outcome.clone(),
    });
    outcome
}

/// A record as Triggers itself would write it, with an id of the producer's.
fn avro(sender: &Sender, tag: &str, org: Uuid) -> (Vec<u8>, Option<Uuid>) {
    let event_id = EventId::generate();
    let event = Event {
        org_id: OrgId::from_uuid(org),
        event_id,
        event_type: "fault.native".to_owned(),
        payload: json!({"tag": tag, "org": org}).to_string(),
        occurred_at: None,
        source: None,
        ordering_key: Some(format!("key-{}", sender.number)),
        metadata: std::collections::BTreeMap::new(),
        dedup: None,
        traceparent: None,
    };
    // An event of our own making always fits; an empty value would show as one that was lost.
    (codec::encode_event(&event).unwrap_or_default(), Some(event_id.as_uuid()))
}

/// Acknowledges natively, as JSON or as Avro; whether Kafka confirmed it.
pub async fn acknowledge(producer: &FutureProducer, topic: &str, org: Uuid, event: Uuid, is_json: bool) -> bool {
    let ack = Ack { org_id: OrgId::from_uuid(org), event_id: EventId::from_uuid(event) };
    let value = if is_json {
        json!({"event_id": event}).to_string().into_bytes()
    } else {
        codec::encode_ack(&ack).unwrap_or_default()
    };
    let content_type = if is_json { CONTENT_TYPE_JSON } else { CONTENT_TYPE_AVRO };
    write(producer, topic, org, &value, content_type).await.is_ok()
}

/// Where Kafka put a record.
struct Place {
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
) -> Result<Place, KafkaError> {
    let key = org.to_string();
    let headers = OwnedHeaders::new().insert(Header { key: CONTENT_TYPE, value: Some(content_type) });
    let record = FutureRecord::to(topic).key(&key).payload(value).headers(headers);
    let delivery = producer.send(record, QUEUE).await.map_err(|(error, _)| error)?;
    let timestamp_ms = match delivery.timestamp {
        Timestamp::NotAvailable => None,
        Timestamp::CreateTime(_) => None,
        Timestamp::LogAppendTime(at) => Some(at),
    };
    Ok(Place { partition: delivery.partition, offset: delivery.offset, timestamp_ms })
}
