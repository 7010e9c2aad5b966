//! Kafka that fails, hangs or is down: the response, how soon it is sent, and that nothing blocks a retry.

use std::sync::Arc;
use std::time::{Duration, Instant};

use devstack::testing::eventually;
use kafka::KafkaConfig;
use kafka::producer::{Producer, ProducerSettings};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::batch::{JSON, event as batch_event, object};
use crate::bench::{Answer, Bench, Instance, PARTITIONS, send};

pub(crate) const BUDGET: Duration = Duration::from_secs(2);
/// The producer checks for timed-out records once a second; the rest is for a busy machine.
pub(crate) const SLACK: Duration = Duration::from_secs(3);

pub(crate) type Mock = MockCluster<'static, DefaultProducerContext>;

pub(crate) fn settings() -> ProducerSettings {
    ProducerSettings { delivery_timeout: BUDGET, ..ProducerSettings::default() }
}

/// An instance on a mock cluster whose broker returns errors on demand.
pub(crate) async fn on_mock(bench: &Bench) -> (Mock, Instance) {
    on_mock_with(bench, settings()).await
}

pub(crate) async fn on_mock_with(bench: &Bench, settings: ProducerSettings) -> (Mock, Instance) {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(&bench.kafka.topics.events, PARTITIONS, 1).unwrap();
    let kafka = KafkaConfig { brokers: mock.bootstrap_servers(), ..bench.kafka.clone() };
    let producer = Producer::new(&kafka, settings).unwrap();
    let instance = bench.instance_with(producer, bench.pool.clone()).await;
    // Connects the producer, so that the test does not measure that.
    instance.accept(&event()).await.expect(201);
    (mock, instance)
}

/// An instance without a Kafka.
pub(crate) async fn without_kafka(bench: &Bench, settings: ProducerSettings) -> Instance {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let kafka = KafkaConfig::new(address.to_string(), "");
    bench.instance_with(Producer::new(&kafka, settings).unwrap(), bench.pool.clone()).await
}

fn event() -> Value {
    json!({"type": "a", "data": 1})
}

fn may_be_stored(answer: &Answer) -> bool {
    let text = answer.text("detail");
    assert_ne!(text.contains("may have been stored"), text.contains("was not stored"), "{text}");
    text.contains("may have been stored")
}

fn retry_after(answer: &Answer) -> u32 {
    answer.header("retry-after").expect("Retry-After").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_append_does_not_block_the_retry() {
    let bench = Bench::start().await;
    let (mock, instance) = on_mock(&bench).await;
    mock.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_POLICY_VIOLATION]);
    let failed = instance.accept_as("k", &event()).await.expect(500);
    assert!(!failed.text("detail").to_lowercase().contains("policy"), "no internals: {failed:?}");
    let retried = instance.accept_as("k", &event()).await.expect(201);
    assert_eq!(retried.header("idempotency-replayed"), None);
    let again = instance.accept_as("k", &event()).await.expect(201);
    assert_eq!(
        (again.header("idempotency-replayed"), again.text("event_id")),
        (Some("true"), retried.text("event_id"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_down_broker_is_503_in_time_and_the_retry_succeeds_later() {
    let bench = Bench::start().await;
    let (mock, instance) = on_mock(&bench).await;
    mock.broker_down(-1).unwrap();
    let started = Instant::now();
    let failed = instance.accept_as("k", &event()).await.expect(503);
    assert!(started.elapsed() < BUDGET + SLACK, "{:?}", started.elapsed());
    assert!(may_be_stored(&failed) && failed.text("detail").contains("Idempotency-Key"), "{failed:?}");
    assert!(retry_after(&failed) >= 1);
    assert_eq!(failed.header("content-type"), Some("application/problem+json"));
    mock.broker_up(-1).unwrap();
    eventually(Duration::from_secs(30), "the retry succeeds", || async {
        let retried = instance.accept_as("k", &event()).await;
        (retried.status == 201 && retried.header("idempotency-replayed").is_none()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
pub(crate) async fn without_kafka_the_answer_is_503_within_the_budget() {
    let bench = Bench::start().await;
    let instance = without_kafka(&bench, settings()).await;
    let started = Instant::now();
    let failed = instance.accept(&event()).await.expect(503);
    assert!(started.elapsed() < BUDGET + SLACK, "{:?}", started.elapsed());
    assert!(may_be_stored(&failed) && retry_after(&failed) >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_duplicates_of_a_failed_append_fail_with_it() {
    let bench = Bench::start().await;
    let instance = Arc::new(without_kafka(&bench, settings()).await);
    let started = Instant::now();
    let mut requests = JoinSet::new();
    for _ in 0..10 {
        let instance = instance.clone();
        requests.spawn(async move { instance.accept_as("k", &event()).await.expect(503) });
    }
    for answer in requests.join_all().await {
        assert!(may_be_stored(&answer) && retry_after(&answer) >= 1);
    }
    assert!(started.elapsed() < BUDGET + SLACK, "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_producer_queue_is_503_at_once_and_nothing_is_stored() {
    let bench = Bench::start().await;
    let long = Duration::from_secs(8);
    let instance = without_kafka(
        &bench,
        ProducerSettings { max_in_flight: 1, delivery_timeout: long, ..ProducerSettings::default() },
    )
    .await;
    let started = Instant::now();
    let timed = async || {
        let answer = instance.accept(&event()).await.expect(503);
        (started.elapsed(), answer)
    };
    let (one, other) = tokio::join!(timed(), timed());
    let (busy, waited) = if one.0 < other.0 { (one, other) } else { (other, one) };
    assert!(busy.0 < long / 2, "{:?}", busy.0);
    assert!(!may_be_stored(&busy.1) && retry_after(&busy.1) >= 1, "{:?}", busy.1);
    assert!(may_be_stored(&waited.1), "{:?}", waited.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_bytes_in_flight_are_503_at_once() {
    let bench = Bench::start().await;
    let bounded = ProducerSettings { max_in_flight_bytes_per_key: 400 * 1024, ..settings() };
    let (mock, instance) = on_mock_with(&bench, bounded).await;
    mock.broker_round_trip_time(-1, BUDGET / 2).unwrap();
    let large = json!({"type": "a", "data": "x".repeat(200 * 1024)});
    let timed = async || {
        let started = Instant::now();
        (instance.accept(&large).await, started.elapsed())
    };
    let (one, other) = tokio::join!(timed(), timed());
    let (busy, accepted) = if one.0.status == 503 { (one, other) } else { (other, one) };
    assert!(busy.1 < BUDGET / 4, "{:?}", busy.1);
    assert!(!may_be_stored(&busy.0) && retry_after(&busy.0) >= 1, "{:?}", busy.0);
    accepted.0.expect(201);
    instance.accept(&large).await.expect(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_events_queue_for_kafka_further_ones_are_503_before_their_bodies_are_read() {
    let bench = Bench::start().await;
    let instance = Arc::new(without_kafka(&bench, settings()).await);
    let mut batches = JoinSet::new();
    for _ in 0..3 {
        let instance = instance.clone();
        let body = object(&(0..500).map(batch_event).collect::<Vec<_>>());
        batches.spawn(async move { send(instance.batch("/v1/events/batch", JSON, body)).await });
    }
    let answered_with = async |status| {
        let answer = send(instance.event("{")).await;
        (answer.status == status).then_some(answer)
    };
    let refused = eventually(SLACK, "an event is refused before it is read", || answered_with(503)).await;
    assert_eq!((&*refused.text("error_code"), retry_after(&refused)), ("unavailable", 1));
    assert!(refused.text("detail").contains("nothing of the request was stored"), "{refused:?}");
    let refused = send(instance.batch("/v1/events/batch", JSON, "{")).await.expect(503);
    assert!(refused.text("detail").contains("nothing of the request was stored"), "{refused:?}");
    for answer in batches.join_all().await {
        answer.expect(503);
    }
    eventually(SLACK, "events are read again", || answered_with(400)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disconnect_with_a_record_in_flight_blocks_no_retry() {
    let bench = Bench::start().await;
    let (mock, instance) = on_mock(&bench).await;
    mock.broker_round_trip_time(-1, Duration::from_secs(1)).unwrap();
    let disconnected = tokio::time::timeout(Duration::from_millis(300), instance.accept_as("k", &event())).await;
    assert!(disconnected.is_err(), "the record must still be in flight: {disconnected:?}");
    mock.broker_round_trip_time(-1, Duration::ZERO).unwrap();
    let started = Instant::now();
    instance.accept_as("k", &event()).await.expect(201);
    assert!(started.elapsed() < BUDGET, "{:?}", started.elapsed());
}
