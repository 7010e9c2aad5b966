//! Batches of the log that cannot be unpacked: of a codec that this build lacks, damaged, or larger than librdkafka
//! unpacks. librdkafka says so again and again and reads nothing of the partition meanwhile; here is found out where
//! such a batch ends, so that reading goes on behind it.
//!
//! No offset is guessed: librdkafka tells the first offset of the batch that it could not unpack, and what is told to
//! lie in the same batch lies in it. Blocking, with a client of its own. What is made of such a batch is its reader's
//! business.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// How long one look at the log may take. A broker that does not answer in time makes no batch unreadable.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

/// A batch that cannot be unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    /// Offset behind its last record.
    pub(super) next: i64,
    /// What librdkafka says of it.
    pub(super) reason: String,
}

/// Whether `error` may say that a batch could not be unpacked; only the sentence that comes with it says so surely
/// (`BadMessage` is also what stands behind the end of an lz4 frame), and where.
pub(super) fn is_unpackable(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{BadCompression, BadMessage, NotImplemented};
    matches!(error.rdkafka_error_code(), Some(BadCompression | BadMessage | NotImplemented))
}

/// The batch at `offset` of a log that ends at `end`, if that is what keeps it from being read.
///
/// # Errors
/// As Kafka has them, and when nothing is heard in time.
pub(super) fn look(
    config: &ClientConfig,
    topic: &str,
    partition: i32,
    offset: i64,
    end: i64,
) -> Result<Option<Batch>, KafkaError> {
    let mut config = config.clone();
    config.set("enable.partition.eof", "true").set("statistics.interval.ms", "0");
    let client: BaseConsumer<Ear> = config.create_with_context(Ear::default())?;
    let Seen::Unpackable { begin, reason } = see(&client, topic, partition, offset)? else { return Ok(None) };
    // What is at `within` lies in the batch, what is at `behind` does not.
    let (mut within, mut behind) = (offset, end.max(offset + 1));
    while behind - within > 1 {
        let middle = within + (behind - within) / 2;
        match see(&client, topic, partition, middle)? {
            Seen::Unpackable { begin: of, .. } if of == begin => within = middle,
            Seen::Unpackable { .. } | Seen::Readable => behind = middle,
        }
    }
    Ok(Some(Batch { next: behind, reason }))
}

enum Seen {
    Readable,
    /// It lies in a batch that begins there.
    Unpackable {
        begin: i64,
        reason: String,
    },
}

fn see(client: &BaseConsumer<Ear>, topic: &str, partition: i32, offset: i64) -> Result<Seen, KafkaError> {
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    client.unassign()?;
    client.context().forget();
    client.assign(&place)?;
    let until = Instant::now() + LOOK_TIMEOUT;
    while Instant::now() < until {
        match client.poll(POLL_TIMEOUT) {
            None => {}
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(Seen::Readable),
            Some(Err(error)) if is_unpackable(&error) => {
                if let Some((begin, reason)) = client.context().heard() {
                    return Ok(Seen::Unpackable { begin, reason });
                }
            }
            // Brokers away, leader moving: it goes on by itself, or there is no answer.
            Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                return Err(error);
            }
            Some(Err(_)) => {}
        }
    }
    Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut))
}

/// Keeps what librdkafka says of a batch: the error that a poll answers has no place.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Option<(i64, String)>>>);

impl Ear {
    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn heard(&self) -> Option<(i64, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Ear {
    fn error(&self, error: KafkaError, reason: &str) {
        if is_unpackable(&error)
            && let Some(begin) = begin_of(reason)
        {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((begin, reason.to_owned()));
        }
    }
}

impl ConsumerContext for Ear {}

/// The first offset of the batch that librdkafka's sentence is about (`rdkafka_msgset_reader.c` of 2.12.1). With
/// another sentence nothing is known, and nothing is passed over.
fn begin_of(reason: &str) -> Option<i64> {
    let (_, rest) = reason.split_once("Decompression (codec ")?;
    let (_, rest) = rest.split_once(" of message at ")?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_begin_of_a_batch_is_read_from_what_is_said_of_it_and_from_nothing_else() {
        let said = "Decompression (codec 0x4) of message at 11 of 4685 bytes failed: Local: Invalid compressed data";
        assert_eq!(begin_of(said), Some(11));
        for other in [
            "",
            "Decompression",
            "of message at 11 of",
            "Decompression (codec 0x4) of message at eleven of 4685 bytes failed",
        ] {
            assert_eq!(begin_of(other), None, "{other}");
        }
    }
}
