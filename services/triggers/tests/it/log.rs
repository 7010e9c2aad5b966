//! The log as a native producer or consumer uses it, with nothing of ours in between.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// How long the broker may take for one call.
const DEADLINE: Duration = Duration::from_secs(30);

/// A producer with no settings but the ones that every native producer needs.
pub struct Writer(FutureProducer);

impl Writer {
    pub fn new(brokers: &str) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("acks", "all").set("partitioner", "murmur2_random").set("message.timeout.ms", "30000");
        Self(config.create().unwrap())
    }

    /// Writes one record, to the key's partition unless one is named, and answers where it is.
    pub async fn write(&self, topic: &str, partition: Option<i32>, key: &str, value: &[u8], headers: &[(&str, &str)]) -> (i32, i64) {
        let with = |all: OwnedHeaders, (key, value): &(&str, &str)| all.insert(Header { key, value: Some(*value) });
        let headers = headers.iter().fold(OwnedHeaders::new(), with);
        let mut record = FutureRecord::to(topic).key(key).payload(value).headers(headers);
        record.partition = partition;
        let delivery = self.0.send(record, DEADLINE).await.map_err(|(error, _)| error).unwrap();
        (delivery.partition, delivery.offset)
    }
}

/// Everything that is in `topic` now.
pub async fn read_all(brokers: &str, topic: &str) -> Vec<OwnedMessage> {
    let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
    tokio::task::spawn_blocking(move || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("group.id", "none").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&topic), DEADLINE).unwrap();
        let mut partitions = TopicPartitionList::new();
        let mut left = 0;
        for partition in metadata.topics()[0].partitions() {
            let (low, high) = consumer.fetch_watermarks(&topic, partition.id(), DEADLINE).unwrap();
            left += high - low;
            partitions.add_partition_offset(&topic, partition.id(), Offset::Beginning).unwrap();
        }
        consumer.assign(&partitions).unwrap();
        let next = |_| consumer.poll(DEADLINE).expect("there is another record").unwrap().detach();
        (0..left).map(next).collect()
    })
    .await
    .unwrap()
}

/// The value of a header, as text.
pub fn header<'a>(record: &'a OwnedMessage, name: &str) -> Option<&'a str> {
    let value = record.headers()?.iter().find(|header| header.key == name)?.value?;
    Some(std::str::from_utf8(value).unwrap())
}
