//! The log reader on a log that loses records while it is read.

use kafka::KafkaConfig;
use kafka::log_reader::{self, OffsetRange, OnTruncation, ReadError};
use kafka::producer::{Producer, ProducerSettings};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::{Offset, TopicPartitionList};

use crate::consumer::{cluster, publish};

async fn delete_before(kafka: &KafkaConfig, topic: &str, offset: i64) {
    let admin: AdminClient<_> = kafka.client("test").create().unwrap();
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
    admin.delete_records(&before, &AdminOptions::new()).await.unwrap();
}

/// Offsets 0 to 4 of the topic, each as (offset, is marker), or why not.
async fn read(kafka: &KafkaConfig, on_truncation: OnTruncation) -> Result<Vec<(i64, bool)>, ReadError> {
    let range = OffsetRange { topic: kafka.topics.events.as_str().into(), partition: 0, from: 0, to: 5 };
    let mut received = log_reader::read(kafka, vec![range], &[], on_truncation).unwrap();
    let mut read = Vec::new();
    while let Some(records) = received.recv().await {
        read.extend(records?.iter().map(|record| (record.offset, record.is_marker)));
    }
    Ok(read)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_range_fails_or_goes_on_where_the_log_begins() {
    let kafka = cluster(1).await;
    let topic = kafka.topics.events.clone();
    let producer = Producer::new(&kafka, ProducerSettings::default()).unwrap();
    for n in 0..6 {
        publish(&producer, &topic, "k", &n.to_string()).await;
    }
    delete_before(&kafka, &topic, 3).await;
    assert_eq!(log_reader::bounds(&kafka, &topic).await.unwrap(), [(0, 3, 6)]);
    assert!(matches!(read(&kafka, OnTruncation::Fail).await, Err(ReadError::Truncated)));
    assert_eq!(read(&kafka, OnTruncation::Skip).await.unwrap(), [(3, false), (4, false)]);
    delete_before(&kafka, &topic, 6).await;
    assert_eq!(read(&kafka, OnTruncation::Skip).await.unwrap(), [(4, true)], "nothing of the range is left");
    let offsets = log_reader::offsets_at(&kafka, &topic, vec![0], 0).await.unwrap();
    assert_eq!(offsets.get(&0), Some(&6), "without a record it is the end");
}
