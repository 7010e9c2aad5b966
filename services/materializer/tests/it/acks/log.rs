//! Helpers: the topics of a bench, events and acks on its log, and the projector that shows them.

use std::collections::HashMap;
use std::time::Duration;

use devstack::testing::{eventually, read_topic};
use http::StatusCode;
use kafka::producer::{Appended, Producer, ProducerRecord, ProducerSettings};
use materializer::projector::ProjectorConfig;
use rdkafka::Message as _;
use rdkafka::message::{Headers as _, OwnedMessage};
use schemas::ids::{EventId, OrgId};
use testkit::setup;

use crate::inbox::harness::Bench;
use crate::projector::harness::{Projecting, event};

const PARTITIONS: i32 = 3;
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// An ack record on the log.
#[derive(Debug, Clone)]
pub(super) struct AckRecord {
    pub key: String,
    pub headers: HashMap<String, String>,
    pub ack: (OrgId, EventId),
}

impl AckRecord {
    fn of(record: &OwnedMessage) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let ack = schemas::codec::decode_ack(record.payload().unwrap()).unwrap();
        let headers =
            record.headers().unwrap().iter().map(|header| (header.key.to_owned(), text(header.value.unwrap())));
        Self { key: text(record.key().unwrap()), headers: headers.collect(), ack: (ack.org_id, ack.event_id) }
    }
}

pub(super) async fn create_topics(bench: &Bench) {
    setup::apply_topics(&bench.kafka, PARTITIONS).await;
}

/// Appends `count` events of Alpha to the log, as ingest does.
pub(super) async fn accept(bench: &Bench, count: usize) -> Vec<(EventId, Appended)> {
    let producer = Producer::new(&bench.kafka, ProducerSettings::default()).unwrap();
    let key = bench.alpha.to_string();
    let mut accepted = Vec::with_capacity(count);
    for _ in 0..count {
        let event = event(bench.alpha);
        let value = schemas::codec::encode_event(&event).unwrap();
        let headers: &[(&str, &[u8])] = &[("content-type", b"application/avro")];
        let record =
            ProducerRecord { topic: &bench.topics().events, key: Some(key.as_bytes()), value: Some(&value), headers };
        accepted.push((event.event_id, producer.publish(record).await.unwrap()));
    }
    accepted
}

/// As [`accept`], and waits until the view shows the last one. Returns the ids in log order.
pub(super) async fn accept_and_show(bench: &Bench, count: usize) -> Vec<EventId> {
    let ids: Vec<EventId> = accept(bench, count).await.into_iter().map(|(id, _)| id).collect();
    let last = format!("/v1/events/{}", ids[count - 1]);
    eventually(PATIENCE, "the view shows the events", || async {
        (bench.get(&last).await.status == StatusCode::OK).then_some(())
    })
    .await;
    ids
}

/// Runs the projector on the bench's log and view.
pub(super) fn project(bench: &Bench) -> Projecting {
    let producer = Producer::new(&bench.kafka, ProducerSettings::default()).unwrap();
    Projecting::start(ProjectorConfig::default(), bench.pool.clone(), producer, bench.kafka.clone())
}

/// All acks on the log up to now.
pub(super) async fn written(bench: &Bench) -> Vec<AckRecord> {
    read_topic(&bench.kafka.brokers, &bench.topics().acks).await.iter().map(AckRecord::of).collect()
}
