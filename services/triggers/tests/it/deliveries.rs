//! The acceptance times of events, read from the log.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use devstack::testing::read_topic;
use rdkafka::message::Message as _;

use crate::system::System;

/// How long a receiver may take to get what was accepted, on a busy machine.
pub(crate) const RECEIVED_WITHIN: Duration = Duration::from_secs(90);

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Id and append time of every event on the log.
pub(crate) async fn accepted(system: &System) -> BTreeMap<String, i64> {
    let records = read_topic(&system.brokers, &system.topic(schemas::topics::EVENTS)).await;
    let event = |record: &rdkafka::message::OwnedMessage| {
        let event = schemas::codec::decode_event(record.payload().unwrap()).unwrap();
        (event.event_id.to_string(), record.timestamp().to_millis().unwrap())
    };
    records.iter().map(event).collect()
}
