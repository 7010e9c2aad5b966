//! Dead letters: the record's own bytes, with its place and the reason in headers. Confirmed by Kafka before the position moves, so one may
//! repeat after a crash; (topic, partition, offset) tells repeats apart.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use platform::health::Component;
use platform::kafka::Record;
use platform::kafka::producer::{Outgoing, Producer, PublishError};
use schemas::headers;
use schemas::native::Unreadable;
use schemas::topics::TopicNames;
use tracing::{error, warn};

use crate::metrics::METRICS;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Writes one, trying until Kafka has it: the partition does not go past a record that would be lost.
pub(crate) async fn write(producer: &Producer, topics: &TopicNames, component: &Component, record: &Record, reason: &Unreadable) {
    let place = [record.partition.to_string(), record.offset.to_string(), record.timestamp_ms.to_string(), now_ms().to_string()];
    let mut all: Vec<(&str, &[u8])> = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
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
    let whole = Outgoing { topic: &topics.dead_letters, key: record.key.as_deref(), value: record.value.as_deref(), headers: &all };
    // Ours alone, for a record that is too large even for the dead letters: the log itself still has it, at that place.
    let place_only = Outgoing { topic: &topics.dead_letters, key: None, value: None, headers: &all[record.headers.len()..] };
    let mut outgoing = whole;
    let mut pause = FIRST_PAUSE;
    loop {
        match producer.publish(outgoing).await {
            Ok(_) => {
                METRICS.dead_letters.with_label_values(&[reason.class]).inc();
                warn!(topic = %record.topic, partition = record.partition, offset = record.offset, class = reason.class, reason = reason.message, "A record became a dead letter.");
                return;
            }
            Err(PublishError::Rejected(why)) => {
                // Never passed over: what else is refused (a missing right) an operator mends, and the record must still be there then.
                error!(topic = %record.topic, partition = record.partition, offset = record.offset, why, "Kafka refuses a dead letter; trying with its place alone.");
                component.down(format!("dead letters are refused: {why}"));
                outgoing = place_only;
            }
            Err(error) => warn!(%error, "A dead letter could not be written; trying again."),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis())
}
