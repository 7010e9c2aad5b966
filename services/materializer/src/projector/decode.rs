//! What a record means to the view. Pure; done outside of the transaction.

use platform::kafka::Record;
use schemas::ids::OrgId;
use schemas::native::{self, Unreadable};
use schemas::records::{Ack, DeliveryAttempt, Event};
use schemas::topics::TopicNames;

/// A record and what it means.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) record: Record,
    pub(crate) content: Content,
}

/// What a record means.
#[derive(Debug)]
pub(crate) enum Content {
    /// One row of the inbox, or a duplicate of one.
    Event(Box<Event>),
    /// Acknowledged events, at least one.
    Acks(Vec<Ack>),
    Attempt(Box<DeliveryAttempt>),
    /// Nobody can read it; the partition goes on.
    Dead(Unreadable),
    /// An event of this organization that is past its retention: nothing is shown of it but that there is a gap.
    Expired(OrgId),
    /// To be passed over: its organization is erased, or it is no record but a marker.
    Skipped,
}

/// Reads `record` by the rules of the topic it is from.
pub(crate) fn decode(record: Record, topics: &TopicNames) -> Item {
    if record.is_marker {
        return Item { record, content: Content::Skipped };
    }
    let (key, value) = (record.key.as_deref(), record.value.as_deref());
    let content = if *record.topic == *topics.acks {
        native::read_acks(key, value, &record.headers).map(Content::Acks)
    } else if *record.topic == *topics.deliveries {
        native::read_attempt(key, value).map(|attempt| Content::Attempt(Box::new(attempt)))
    } else {
        native::read_event(&record.as_native()).map(|event| Content::Event(Box::new(event)))
    };
    let content = content.unwrap_or_else(Content::Dead);
    Item { record, content }
}
