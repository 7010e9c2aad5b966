//! Polling so many records that handing them over is cheap.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;

use super::POLL_TIMEOUT;
use super::leader_epochs::ReadEpochs;
use crate::{Record, ffi};

/// Most records that are handed over at once.
const CHUNK_RECORDS: usize = 500;
/// A chunk takes no further record beyond this, so that large records do not multiply with the chunks that wait.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Polls once and then takes what is there, up to a chunk; with what it met at its end, which no later poll says again.
/// A rebalance is served inside of `poll`, and a poll without a time-out ends with it: so no record that was taken
/// before a revocation is handed over after the next claim.
pub(super) fn poll<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic_of: &mut impl FnMut(&str) -> Arc<str>,
) -> (Vec<Record>, ReadEpochs, Option<KafkaError>) {
    let (mut records, mut epochs) = (Vec::new(), ReadEpochs::default());
    let mut timeout = POLL_TIMEOUT;
    let mut bytes = 0;
    while records.len() < CHUNK_RECORDS && bytes < CHUNK_BYTES {
        match client.poll(timeout) {
            None => break,
            Some(Ok(message)) => {
                let topic = topic_of(message.topic());
                let record = Record::copy_of(&message, &topic);
                epochs.note(&topic, record.partition, ffi::leader_epoch(&message));
                bytes += record.size();
                records.push(record);
            }
            Some(Err(error)) => return (records, epochs, Some(error)),
        }
        timeout = Duration::ZERO;
    }
    (records, epochs, None)
}
