//! The producer when brokers fail, on a mock cluster: real brokers do not fail on demand.

use std::time::Duration;

use devstack::testing::eventually;
use kafka::KafkaConfig;
use kafka::producer::{Appended, Producer, ProducerRecord, ProducerSettings, PublishError};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

const TOPIC: &str = "events";

type Mock = MockCluster<'static, DefaultProducerContext>;

fn cluster(settings: ProducerSettings) -> (Mock, Producer) {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, 1, 1).unwrap();
    let producer = Producer::new(&KafkaConfig::new(mock.bootstrap_servers(), ""), settings).unwrap();
    (mock, producer)
}

async fn publish(producer: &Producer) -> Result<Appended, PublishError> {
    producer.publish(ProducerRecord { topic: TOPIC, key: Some(b"k"), value: Some(b"v"), headers: &[("h", b"1")] }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_failed_for_good_is_replaced() {
    let (mock, producer) = cluster(ProducerSettings::default());
    assert_eq!(publish(&producer).await.unwrap().offset, 0);
    for round in 0..3 {
        // The first batch in flight out of order: librdkafka can no longer reason about its sequence, and raises a
        // fatal error.
        mock.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]);
        let failed = publish(&producer).await;
        assert!(matches!(failed, Err(PublishError::Unknown(_))), "it may be on the log: {failed:?}");
        assert_eq!(publish(&producer).await.unwrap().offset, round + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_broker_refuses_harms_no_other() {
    let (mock, producer) = cluster(ProducerSettings::default());
    publish(&producer).await.unwrap();
    for refusal in
        [RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, RDKafkaRespErr::RD_KAFKA_RESP_ERR_POLICY_VIOLATION]
    {
        mock.request_errors(RDKafkaApiKey::Produce, &[refusal]);
        let refused = publish(&producer).await;
        assert!(matches!(refused, Err(PublishError::Rejected(_))), "{refused:?}");
        publish(&producer).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_partition_refuses_at_once_and_gives_its_places_back() {
    let settings = ProducerSettings { max_in_flight_per_partition: 1, ..ProducerSettings::default() };
    let (mock, producer) = cluster(settings);
    assert_eq!(producer.warm(TOPIC, Duration::from_secs(10)).await.unwrap(), 1);
    mock.broker_round_trip_time(-1, Duration::from_millis(500)).unwrap();
    let (first, second) = tokio::join!(publish(&producer), publish(&producer));
    first.unwrap();
    assert!(matches!(second, Err(PublishError::Busy)), "{second:?}");
    publish(&producer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_in_flight_are_bounded_by_key_until_the_report() {
    static VALUE: [u8; 20_000] = [b'v'; 20_000];
    let settings =
        ProducerSettings { max_in_flight_bytes: 70_000, max_in_flight_bytes_per_key: 45_000, ..Default::default() };
    let (mock, producer) = cluster(settings);
    publish(&producer).await.unwrap();
    mock.broker_round_trip_time(-1, Duration::from_secs(1)).unwrap();
    let record =
        |key: &'static [u8]| ProducerRecord { topic: TOPIC, key: Some(key), value: Some(&VALUE), headers: &[] };
    let is_busy = |key| matches!(producer.submit(&record(key)), Err(PublishError::Busy));
    let (first, mut second) = (producer.submit(&record(b"a")).unwrap(), producer.submit(&record(b"a")).unwrap());
    assert!(is_busy(b"a"), "one key does not take everything");
    let mut third = producer.submit(&record(b"b")).unwrap();
    assert!(is_busy(b"b"), "the bound of all keys is reached");
    // Its client left; librdkafka still has the record.
    drop(first);
    assert!(is_busy(b"a"), "the record takes its bytes until its report");
    second.report().await.unwrap();
    third.report().await.unwrap();
    let free = async || (!is_busy(b"a")).then_some(());
    eventually(Duration::from_secs(10), "the bytes are given back without anybody who waits", free).await;
}
