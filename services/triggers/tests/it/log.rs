//! A native producer: it writes to Kafka without any code of this project.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};

/// Timeout of a call to the broker.
const DEADLINE: Duration = Duration::from_secs(30);

/// A producer with only the settings that every native producer needs.
pub(crate) struct Writer(FutureProducer);

impl Writer {
    pub(crate) fn new(brokers: &str) -> Self {
        Self::with_properties(brokers, &[])
    }

    /// With properties of its user.
    pub(crate) fn with_properties(brokers: &str, properties: &[(String, String)]) -> Self {
        let mut config = ClientConfig::new();
        config.extend(properties.iter().cloned());
        config
            .set("bootstrap.servers", brokers)
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("message.timeout.ms", "30000");
        Self(config.create().unwrap())
    }

    /// Writes one record to the given partition, else to that of the key; returns its partition and offset.
    pub(crate) async fn write(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: &str,
        value: &[u8],
        headers: &[(&str, &str)],
    ) -> (i32, i64) {
        let with = |all: OwnedHeaders, (key, value): &(&str, &str)| all.insert(Header { key, value: Some(*value) });
        let headers = headers.iter().fold(OwnedHeaders::new(), with);
        let mut record = FutureRecord::to(topic).key(key).payload(value).headers(headers);
        record.partition = partition;
        self.append(record).await
    }

    /// Writes a record, which may have no value; returns its partition and offset.
    pub(crate) async fn append(&self, record: FutureRecord<'_, str, [u8]>) -> (i32, i64) {
        let delivery = self.0.send(record, DEADLINE).await.map_err(|(error, _)| error).unwrap();
        (delivery.partition, delivery.offset)
    }
}

/// The value of a header, as text.
pub(crate) fn header<'a>(record: &'a OwnedMessage, name: &str) -> Option<&'a str> {
    let value = record.headers()?.iter().find(|header| header.key == name)?.value?;
    Some(std::str::from_utf8(value).unwrap())
}
