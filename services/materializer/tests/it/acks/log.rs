//! Helpers: the topics of a bench, events and acks on its log, and the projector that shows them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use devstack::testing::eventually;
use http::StatusCode;
use materializer::projector::{self, ProjectorConfig};
use platform::health::Health;
use platform::kafka::producer::{Appended, Outgoing, Producer, ProducerSettings};
use platform::kafka::topics::{self, Replication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Headers as _;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use schemas::ids::{EventId, OrgId};
use schemas::records::Event;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::inbox::harness::Bench;

pub const PARTITIONS: i32 = 3;
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An ack as it stands on the log.
#[derive(Debug, Clone)]
pub struct Written {
    pub key: String,
    pub headers: HashMap<String, String>,
    pub ack: (OrgId, EventId),
}

pub async fn create_topics(bench: &Bench) {
    let replication = Replication { factor: 1, min_in_sync: 1 };
    let differences = topics::plan(&bench.kafka, &bench.topics().manifest(PARTITIONS), replication).await.unwrap();
    topics::apply(&bench.kafka, &differences, replication).await.unwrap();
}

/// Appends `count` events of Alpha to the log, as ingest does.
pub async fn accept(bench: &Bench, count: usize) -> Vec<(EventId, Appended)> {
    let producer = Producer::new(&bench.kafka, ProducerSettings::default()).unwrap();
    let key = bench.alpha.to_string();
    let mut accepted = Vec::with_capacity(count);
    for _ in 0..count {
        let event = Event {
            org_id: bench.alpha,
            event_id: EventId::generate(),
            event_type: "a".to_owned(),
            payload: "{}".to_owned(),
            occurred_at: None,
            source: None,
            ordering_key: None,
            metadata: BTreeMap::new(),
            dedup: None,
            traceparent: None,
        };
        let value = schemas::codec::encode_event(&event).unwrap();
        let headers: &[(&str, &[u8])] = &[("content-type", b"application/avro")];
        let record = Outgoing { topic: &bench.topics().events, key: Some(key.as_bytes()), value: Some(&value), headers };
        accepted.push((event.event_id, producer.publish(record).await.unwrap()));
    }
    accepted
}

/// As [`accept`], and waits until the view shows the last one. Answers the ids in log order.
pub async fn accept_and_show(bench: &Bench, count: usize) -> Vec<EventId> {
    let ids: Vec<EventId> = accept(bench, count).await.into_iter().map(|(id, _)| id).collect();
    let last = format!("/v1/events/{}", ids[count - 1]);
    eventually(PATIENCE, "the view shows the events", || async { (bench.get(&last).await.status == StatusCode::OK).then_some(()) }).await;
    ids
}

/// A running projector.
pub struct Projecting {
    stop: CancellationToken,
    ended: JoinHandle<Result<(), projector::Error>>,
}

/// Runs the projector on the bench's log and view.
pub fn project(bench: &Bench) -> Projecting {
    let stop = CancellationToken::new();
    let producer = Producer::new(&bench.kafka, ProducerSettings::default()).unwrap();
    let running =
        projector::run(ProjectorConfig::default(), bench.pool.clone(), producer, bench.kafka.clone(), Health::new(), stop.clone());
    Projecting { ended: tokio::spawn(running), stop }
}

impl Projecting {
    pub async fn stop(self) {
        self.stop.cancel();
        self.ended.await.unwrap().unwrap();
    }
}

/// All acks on the log up to now.
pub async fn written(bench: &Bench) -> Vec<Written> {
    let (config, topic) = (bench.kafka.clone(), bench.topics().acks.clone());
    tokio::task::spawn_blocking(move || read(&config.brokers, &topic)).await.unwrap()
}

fn read(brokers: &str, topic: &str) -> Vec<Written> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", "none").set("fetch.wait.max.ms", "10").create().unwrap();
    let mut partitions = TopicPartitionList::new();
    let mut ends = 0;
    for partition in 0..PARTITIONS {
        partitions.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        ends += consumer.fetch_watermarks(topic, partition, PATIENCE).unwrap().1;
    }
    consumer.assign(&partitions).unwrap();
    let mut written = Vec::new();
    while i64::try_from(written.len()).unwrap() < ends {
        let Some(message) = consumer.poll(PATIENCE) else { panic!("{} of {ends} acks were read", written.len()) };
        let message = message.unwrap();
        let ack = schemas::codec::decode_ack(message.payload().unwrap()).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let headers = message.headers().unwrap().iter().map(|header| (header.key.to_owned(), text(header.value.unwrap())));
        written.push(Written { key: text(message.key().unwrap()), headers: headers.collect(), ack: (ack.org_id, ack.event_id) });
    }
    written
}
