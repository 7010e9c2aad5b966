//! Decodes a record for the view. Pure; done before the transaction starts.

use kafka::Record;
use kafka::partition::TopicPartition;
use schemas::ids::OrgId;
use schemas::native::{self, SystemKey, Unreadable};
use schemas::records::{Ack, DeliveryAttempt, Event};
use schemas::topics::TopicNames;

/// A record and its decoded content.
#[derive(Debug)]
pub(crate) struct DecodedRecord {
    pub(crate) record: Record,
    pub(crate) content: Content,
    /// Its producer gave it a time far ahead. It is a dead letter, whatever it contains.
    has_future_time: bool,
}

impl DecodedRecord {
    pub(crate) fn topic_partition(&self) -> TopicPartition {
        (self.record.topic.clone(), self.record.partition)
    }

    /// Append time of the record, milliseconds since the Unix epoch; `None` if it has none that can be compared.
    pub(crate) fn log_time_ms(&self) -> Option<i64> {
        if self.has_future_time { None } else { self.record.log_time_ms() }
    }
}

#[derive(Debug)]
pub(crate) enum Content {
    /// One row of the inbox, or a duplicate of one.
    Event(Box<Event>),
    /// Acknowledged events, at least one.
    Acks(Vec<Ack>),
    Attempt(Box<DeliveryAttempt>),
    /// Cannot be read or accepted; it becomes a dead letter.
    Dead(Unreadable),
    /// An event of this organization below the retention floor. The inbox reports it as part of a retention gap.
    Expired(OrgId),
    /// Its organization is erased, or it is a transaction marker.
    Skipped,
}

/// Decodes `record` by the rules of its topic. `system_key`: of the system's own events. `now_ms`: milliseconds since
/// the Unix epoch.
pub(crate) fn decode(record: Record, topics: &TopicNames, system_key: &SystemKey, now_ms: i64) -> DecodedRecord {
    if record.is_marker {
        return DecodedRecord { record, content: Content::Skipped, has_future_time: false };
    }
    let (key, value) = (record.key.as_deref(), record.value.as_deref());
    let time = record.check_time(now_ms);
    let has_future_time = time.is_err();
    let content = if let Err(reason) = time {
        Err(reason)
    } else if *record.topic == *topics.acks {
        native::read_acks(key, value, &record.headers).map(Content::Acks)
    } else if *record.topic == *topics.deliveries {
        native::read_attempt(key, value).map(|attempt| Content::Attempt(Box::new(attempt)))
    } else {
        native::read_event_with(&record.as_native(), Some(system_key)).map(|event| Content::Event(Box::new(event)))
    };
    let content = content.unwrap_or_else(Content::Dead);
    DecodedRecord { record, content, has_future_time }
}
