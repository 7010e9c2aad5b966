//! Writing dead letters: the record's own bytes, with its place and the reason in headers. Confirmed by Kafka before
//! the position moves, so one may repeat after a crash; (topic, partition, offset) tells repeats apart.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt as _;
use platform::health::Component;
use platform::kafka::Record;
use platform::kafka::producer::{Outgoing, Producer, PublishError};
use platform::retry::Backoff;
use schemas::headers;
use schemas::native::{Origin, Unreadable};
use schemas::topics::TopicNames;
use tracing::{error, warn};

use crate::metrics::METRICS;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// One at a time, a producer of garbage would hold everybody else up for a round trip to Kafka per record.
const AT_ONCE: usize = 64;

/// Writes all of them, some at once, as [`write`] does; their order on the topic says nothing.
pub(crate) async fn write_all<'a>(
    producer: &Producer,
    topics: &TopicNames,
    component: &Component,
    letters: impl Iterator<Item = (&'a Record, &'a Unreadable)>,
) {
    let written = |(record, reason)| write(producer, topics, component, record, reason);
    futures_util::stream::iter(letters).for_each_concurrent(AT_ONCE, written).await;
}

/// Writes one, trying until Kafka has it: the partition does not go past a record that would be lost.
pub(crate) async fn write(
    producer: &Producer,
    topics: &TopicNames,
    component: &Component,
    record: &Record,
    reason: &Unreadable,
) {
    let place = [
        record.partition.to_string(),
        record.offset.to_string(),
        record.timestamp_ms.to_string(),
        now_ms().to_string(),
    ];
    let mut all: Vec<(&str, &[u8])> =
        record.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    all.extend([
        (headers::DLQ_TOPIC, record.topic.as_bytes()),
        (headers::DLQ_PARTITION, place[0].as_bytes()),
        (headers::DLQ_OFFSET, place[1].as_bytes()),
        (headers::DLQ_TIMESTAMP, place[2].as_bytes()),
        (headers::DLQ_GROUP, topics.group_materializer.as_bytes()),
        (headers::DLQ_ERROR_CLASS, reason.class.as_bytes()),
        (headers::DLQ_ERROR_MESSAGE, reason.message.as_bytes()),
        (headers::DLQ_FIRST_SEEN, place[3].as_bytes()),
    ]);
    let whole = Outgoing {
        topic: &topics.dead_letters,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &all,
    };
    // Ours alone, for a record that is too large even for the dead letters: the log itself still has it, at that place.
    // With the first place of one that was written again before: it is the same letter still.
    let first_place = Origin::of_headers(&record.headers).ok().flatten().map(|origin| origin.to_headers());
    let mut ours = all[record.headers.len()..].to_vec();
    ours.extend(first_place.iter().flatten().map(|(name, value)| (*name, value.as_bytes())));
    let place_only = Outgoing { topic: &topics.dead_letters, key: None, value: None, headers: &ours };
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let mut outcome = producer.publish(whole).await;
        if let Err(PublishError::Rejected(why)) = outcome {
            error!(topic = %record.topic, partition = record.partition, offset = record.offset, why, "Kafka refuses a dead letter; trying with its place alone.");
            outcome = producer.publish(place_only).await;
        }
        match outcome {
            Ok(_) => {
                METRICS.dead_letters.with_label_values(&[reason.class]).inc();
                warn!(topic = %record.topic, partition = record.partition, offset = record.offset, class = reason.class, reason = reason.message, "A record became a dead letter.");
                return;
            }
            // Never skipped, not even when refused (a missing right): an operator grants that, and then all of the
            // record is written.
            Err(error) => component.down(format!("dead letters cannot be written: {error}")),
        }
        backoff.pause().await;
    }
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis())
}
