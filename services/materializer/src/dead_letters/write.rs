//! Writes dead letters: the bytes of the record, with its topic, partition, offset and the reason in headers. Kafka
//! confirms a dead letter before the position moves, so a crash may write it twice; topic, partition and offset
//! identify the duplicate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt as _;
use kafka::Record;
use kafka::producer::{Producer, ProducerRecord, PublishError};
use runtime::health::Component;
use runtime::retry::Backoff;
use schemas::headers;
use schemas::native::{Origin, Unreadable};
use schemas::topics::TopicNames;
use tracing::{error, warn};

use crate::metrics::METRICS;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Concurrent writes. One by one, a producer of garbage would delay all others by a round trip to Kafka per record.
const CONCURRENCY: usize = 64;

/// Writes all dead letters, some of them concurrently; their order on the topic has no meaning. See [`write`].
pub(crate) async fn write_all<'a>(
    producer: &Producer,
    topics: &TopicNames,
    component: &Component,
    dead_letters: impl Iterator<Item = (&'a Record, &'a Unreadable)>,
) {
    let written = |(record, reason)| write(producer, topics, component, record, reason);
    futures_util::stream::iter(dead_letters).for_each_concurrent(CONCURRENCY, written).await;
}

/// Writes one dead letter, and retries until Kafka confirms it: the position must not move past a record that would be
/// lost.
pub(crate) async fn write(
    producer: &Producer,
    topics: &TopicNames,
    component: &Component,
    record: &Record,
    reason: &Unreadable,
) {
    let numbers = [
        record.partition.to_string(),
        record.offset.to_string(),
        record.timestamp_ms.to_string(),
        now_ms().to_string(),
    ];
    let mut all: Vec<(&str, &[u8])> =
        record.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    all.extend([
        (headers::DLQ_TOPIC, record.topic.as_bytes()),
        (headers::DLQ_PARTITION, numbers[0].as_bytes()),
        (headers::DLQ_OFFSET, numbers[1].as_bytes()),
        (headers::DLQ_TIMESTAMP, numbers[2].as_bytes()),
        (headers::DLQ_GROUP, topics.group_materializer.as_bytes()),
        (headers::DLQ_ERROR_CLASS, reason.class.as_bytes()),
        (headers::DLQ_ERROR_MESSAGE, reason.message.as_bytes()),
        (headers::DLQ_FIRST_SEEN, numbers[3].as_bytes()),
    ]);
    let complete = ProducerRecord {
        topic: &topics.dead_letters,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &all,
    };
    // For a record that is too large for the topic of dead letters: only our headers. The log still has the record. The
    // origin of a redriven record is kept, so that it stays the same dead letter.
    let origin = Origin::of_headers(&record.headers).ok().flatten().map(|origin| origin.to_headers());
    let mut ours = all[record.headers.len()..].to_vec();
    ours.extend(origin.iter().flatten().map(|(name, value)| (*name, value.as_bytes())));
    let without_bytes = ProducerRecord { topic: &topics.dead_letters, key: None, value: None, headers: &ours };
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let mut outcome = producer.publish(complete).await;
        if let Err(PublishError::Rejected(why)) = outcome {
            let (topic, partition, offset) = (&record.topic, record.partition, record.offset);
            error!(%topic, partition, offset, why, "Kafka rejected a dead letter; retrying without the record.");
            outcome = producer.publish(without_bytes).await;
        }
        match outcome {
            Ok(_) => {
                METRICS.dead_letters.with_label_values(&[reason.class]).inc();
                let (topic, partition, offset) = (&record.topic, record.partition, record.offset);
                let Unreadable { class, message } = reason;
                warn!(%topic, partition, offset, class, reason = message, "Dead-lettered record.");
                return;
            }
            // Never skipped, not even if Kafka rejects it (a missing permission): an operator grants the permission,
            // and then the record is written.
            Err(error) => component.report_unhealthy(format!("dead letters cannot be written: {error}")),
        }
        backoff.pause().await;
    }
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis())
}
