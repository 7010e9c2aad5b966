//! Batches that librdkafka cannot decode: damaged, with a codec that this build lacks, or larger than it decompresses.
//! librdkafka reports an error code for such a batch again and again, and reads nothing else of its partition.
//!
//! The error does not name the partition. So [`probe`] reads one partition with its own client. Only the error code
//! decides, never the text. Blocking.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// How long one probe may take. A batch is not undecodable because a broker does not answer in time.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

/// Whether librdkafka reports `error` for a batch that it cannot decode. The error does not name the partition.
pub(super) fn is_decode_error(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        BadCompression, BadMessage, InvalidMessage, InvalidMessageSize, MessageSizeTooLarge, NotImplemented,
    };
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(BadCompression | BadMessage | InvalidMessage | InvalidMessageSize | MessageSizeTooLarge | NotImplemented)
    )
}

/// Reads at one offset with a client made from `config`. Returns librdkafka's error text if the batch there cannot be
/// decoded, and `None` if a record or the end of the log comes.
///
/// # Errors
/// As Kafka reports them, and a timeout if nothing comes in five seconds.
pub(super) fn probe(
    config: &ClientConfig,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<Option<String>, KafkaError> {
    let mut config = config.clone();
    config.set("enable.partition.eof", "true").set("statistics.interval.ms", "0");
    let client: BaseConsumer<LastError> = config.create_with_context(LastError::default())?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    client.assign(&assignment)?;
    let deadline = Instant::now() + PROBE_TIMEOUT;
    while Instant::now() < deadline {
        match client.poll(POLL_TIMEOUT) {
            None => {}
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(None),
            Some(Err(error)) if is_decode_error(&error) => {
                return Ok(Some(client.context().text().unwrap_or_else(|| error.to_string())));
            }
            // The position is outside of the log: a retry does not help.
            Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                return Err(error);
            }
            // Brokers away, leader moving: librdkafka retries it.
            Some(Err(_)) => {}
        }
    }
    Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut))
}

/// Keeps the text of the last decode error: the error that a poll returns has none.
#[derive(Default)]
struct LastError(Mutex<Option<String>>);

impl LastError {
    fn text(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for LastError {
    fn error(&self, error: KafkaError, reason: &str) {
        if is_decode_error(&error) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for LastError {}
