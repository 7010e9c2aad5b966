//! Polls records in chunks, so that sending one to the owner is cheap.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;

use super::POLL_TIMEOUT;
use super::leader_epochs::ReadEpochs;
use crate::{Record, ffi};

/// Largest number of records in a chunk.
const CHUNK_RECORDS: usize = 500;
/// A chunk takes no further record above this size, so that large records do not multiply with the queued chunks.
const CHUNK_BYTES: usize = 1024 * 1024;
/// How long others may follow the first record. librdkafka hands on an answer partition by partition, and waking this
/// thread and the owner for each of them takes more than their records.
const GATHER: Duration = Duration::from_millis(1);

/// Polls once, then takes the records that are there a moment later, up to a chunk. Also returns the error that ended
/// the chunk: librdkafka reports it only once. A rebalance runs inside of `poll`, and a poll without a timeout returns
/// after it. So no record that was polled before a revocation is sent after the next claim.
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
        if !timeout.is_zero() {
            std::thread::sleep(GATHER);
            timeout = Duration::ZERO;
        }
    }
    (records, epochs, None)
}
