//! Reads all records of a topic, without code of the product. The caller decodes them.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::OwnedMessage;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// How long the broker may take for one call.
const DEADLINE: Duration = Duration::from_secs(60);

/// All records that are in `topic` now; those of one partition in their order.
///
/// # Panics
/// When there is no such topic, or the broker does not return all records up to its high watermark.
pub async fn read_topic(brokers: &str, topic: &str) -> Vec<OwnedMessage> {
    let (from, name) = (brokers.to_owned(), topic.to_owned());
    match tokio::task::spawn_blocking(move || read(&from, &name)).await {
        Ok(Ok(records)) => records,
        Ok(Err(error)) => panic!("cannot read {topic}: {error}"),
        Err(error) => panic!("cannot read {topic}: {error}"),
    }
}

fn read(brokers: &str, topic: &str) -> KafkaResult<Vec<OwnedMessage>> {
    let mut config = ClientConfig::new();
    // The consumer joins no group, but must have a group id.
    config
        .set("bootstrap.servers", brokers)
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "10");
    let consumer: BaseConsumer = config.create()?;
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE)?;
    let mut partitions = TopicPartitionList::new();
    let mut count = 0;
    for described in metadata.topics() {
        // Without this check, an unknown topic would look empty.
        if let Some(error) = described.error() {
            return Err(KafkaError::MetadataFetch(error.into()));
        }
        for partition in described.partitions() {
            let (low, high) = consumer.fetch_watermarks(topic, partition.id(), DEADLINE)?;
            count += high - low;
            partitions.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
        }
    }
    consumer.assign(&partitions)?;
    let next = |read| match consumer.poll(DEADLINE) {
        Some(record) => record.map(|record| record.detach()),
        None => panic!("{read} of {count} records were read"),
    };
    (0..count).map(next).collect()
}
