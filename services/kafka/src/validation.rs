//! Validates leader epochs: whether a log still has the records before a position (KIP-320).
//!
//! librdkafka has no call for the request (OffsetForLeaderEpoch). It sends it when a consumer seeks to an offset with a
//! leader epoch: then either reading starts, or the consumer reports an error for the partition. An assignment alone is
//! not validated. So a short-lived client seeks, and waits for one of the two.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, TopicPartitionList};

use super::log_identity::PartitionPosition;
use super::{KafkaConfig, ffi};

const POLL_TIMEOUT: Duration = Duration::from_millis(20);
/// How long a refused seek waits for the next try. librdkafka refuses a seek until the assignment is active.
const SEEK_RETRY: Duration = Duration::from_millis(20);

/// For each position with a leader epoch: whether the log has the records before it. The positions must be inside of
/// their logs. No answer within `timeout` is an error.
pub(super) fn has_records_before(
    kafka: &KafkaConfig,
    topic: &str,
    positions: &[PartitionPosition],
    timeout: Duration,
) -> Vec<(PartitionPosition, Result<bool, KafkaError>)> {
    let mut open: Vec<PartitionPosition> =
        positions.iter().filter(|position| position.identity.leader_epoch.is_some()).copied().collect();
    if open.is_empty() {
        return Vec::new();
    }
    let mut answers = Vec::with_capacity(open.len());
    let outcome = validate(kafka, topic, &mut open, &mut answers, Instant::now() + timeout);
    let error = outcome.err().unwrap_or(KafkaError::OffsetFetch(RDKafkaErrorCode::OperationTimedOut));
    answers.extend(open.into_iter().map(|position| (position, Err(error.clone()))));
    answers
}

/// Moves positions from `open` to `answers`; those that are left were not answered in time.
fn validate(
    kafka: &KafkaConfig,
    topic: &str,
    open: &mut Vec<PartitionPosition>,
    answers: &mut Vec<(PartitionPosition, Result<bool, KafkaError>)>,
    deadline: Instant,
) -> Result<(), KafkaError> {
    let client: BaseConsumer = client_config(kafka).create()?;
    client.incremental_assign(&list(topic, open)?)?;
    seek(&client, topic, open, deadline)?;
    while !open.is_empty() && Instant::now() < deadline {
        let Some(polled) = ffi::poll(&client, POLL_TIMEOUT) else { continue };
        let Some(index) = open.iter().position(|position| position.partition == polled.partition) else { continue };
        let answer = match polled.error {
            // A record, or the end of the log: reading started, so the leader epoch was accepted.
            None => Ok(true),
            Some((RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::LogTruncation, _)) => Ok(false),
            // Reading started, and met a batch that cannot be decoded.
            Some((code, _)) if is_about_content(code) => Ok(true),
            Some((code, _)) => Err(KafkaError::MessageConsumption(code)),
        };
        answers.push((open.swap_remove(index), answer));
    }
    Ok(())
}

/// Repeats the seek for the partitions that refuse it.
fn seek(
    client: &BaseConsumer,
    topic: &str,
    positions: &[PartitionPosition],
    deadline: Instant,
) -> Result<(), KafkaError> {
    let mut left = positions.to_vec();
    loop {
        let sought = client.seek_partitions(list(topic, &left)?, deadline.saturating_duration_since(Instant::now()))?;
        let mut refused = None;
        left.retain(|position| {
            let element = sought.find_partition(topic, position.partition);
            let error = element.and_then(|element| element.error().err());
            let is_refused = error.is_some();
            refused = error.or(refused.take());
            is_refused
        });
        match refused {
            None => return Ok(()),
            Some(error) if Instant::now() + SEEK_RETRY > deadline => return Err(error),
            Some(_) => std::thread::sleep(SEEK_RETRY),
        }
    }
}

fn list(topic: &str, positions: &[PartitionPosition]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for PartitionPosition { partition, next_offset, identity } in positions {
        ffi::add_with_leader_epoch(&mut list, topic, *partition, *next_offset, identity.leader_epoch)?;
    }
    Ok(list)
}

fn is_about_content(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BadMessage
            | RDKafkaErrorCode::BadCompression
            | RDKafkaErrorCode::NotImplemented
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::MessageSizeTooLarge
    )
}

fn client_config(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = kafka.client("validation");
    config
        // librdkafka requires a group id for any assignment.
        .set("group.id", &kafka.topics.group_materializer)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        // An aborted record is an answer too.
        .set("isolation.level", "read_uncommitted")
        // One record is enough.
        .set("queued.min.messages", "1")
        // While a record waits to be polled, nothing is fetched of any partition, by default for a second.
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.message.max.bytes", "1024")
        .set("fetch.wait.max.ms", "20");
    kafka.overlay(&mut config);
    config
}
