//! Whether a log still holds the records before a position, asked by their leader epoch (KIP-320).
//!
//! librdkafka has no call for the request (OffsetForLeaderEpoch). It sends it when a consumer seeks to an offset with a
//! leader epoch: then either reading begins, or the consumer reports an error for the partition. An assignment alone is
//! not validated. So a short-lived client of its own seeks, and waits for one of the two.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, TopicPartitionList};

use super::log_state::LogPosition;
use super::{KafkaConfig, ffi};

const POLL_TIMEOUT: Duration = Duration::from_millis(20);
/// How long a seek waits before it is tried again. It is refused until the assignment has been taken up.
const SEEK_RETRY: Duration = Duration::from_millis(20);

/// For each place with a leader epoch, which must lie inside of its log: whether the log holds the records before it.
/// No answer within `timeout` is an error.
pub(super) fn holds_records_before(
    kafka: &KafkaConfig,
    topic: &str,
    places: &[LogPosition],
    timeout: Duration,
) -> Vec<(LogPosition, Result<bool, KafkaError>)> {
    let places: Vec<LogPosition> =
        places.iter().filter(|place| place.identity.leader_epoch.is_some()).copied().collect();
    if places.is_empty() {
        return Vec::new();
    }
    let mut answers = Vec::with_capacity(places.len());
    let mut open = places;
    let outcome = validate(kafka, topic, &mut open, &mut answers, Instant::now() + timeout);
    let error = outcome.err().unwrap_or(KafkaError::OffsetFetch(RDKafkaErrorCode::OperationTimedOut));
    answers.extend(open.into_iter().map(|place| (place, Err(error.clone()))));
    answers
}

/// Moves places from `open` to `answers`; those that are left were not answered in time.
fn validate(
    kafka: &KafkaConfig,
    topic: &str,
    open: &mut Vec<LogPosition>,
    answers: &mut Vec<(LogPosition, Result<bool, KafkaError>)>,
    deadline: Instant,
) -> Result<(), KafkaError> {
    let client: BaseConsumer = client_config(kafka).create()?;
    client.incremental_assign(&list(topic, open)?)?;
    seek(&client, topic, open, deadline)?;
    while !open.is_empty() && Instant::now() < deadline {
        let Some(met) = ffi::poll(&client, POLL_TIMEOUT) else { continue };
        let Some(index) = open.iter().position(|place| place.partition == met.partition) else { continue };
        let answer = match met.error {
            // A record, or the end of the log: reading began, so the leader epoch was accepted.
            None => Ok(true),
            Some((RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::LogTruncation, _)) => Ok(false),
            // So it did where what comes first cannot be decoded.
            Some((code, _)) if is_about_content(code) => Ok(true),
            Some((code, _)) => Err(KafkaError::MessageConsumption(code)),
        };
        answers.push((open.swap_remove(index), answer));
    }
    Ok(())
}

/// Repeats the seek for the partitions that refuse it.
fn seek(client: &BaseConsumer, topic: &str, places: &[LogPosition], deadline: Instant) -> Result<(), KafkaError> {
    let mut left = places.to_vec();
    loop {
        let sought = client.seek_partitions(list(topic, &left)?, deadline.saturating_duration_since(Instant::now()))?;
        let mut refused = None;
        left.retain(|place| {
            let element = sought.find_partition(topic, place.partition);
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

fn list(topic: &str, places: &[LogPosition]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for LogPosition { partition, next_offset, identity } in places {
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
        // librdkafka wants a name for any assignment.
        .set("group.id", &kafka.topics.group_materializer)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        // An aborted record is an answer too.
        .set("isolation.level", "read_uncommitted")
        // One record is enough.
        .set("queued.min.messages", "1")
        .set("fetch.message.max.bytes", "1024")
        .set("fetch.wait.max.ms", "20");
    kafka.overlay(&mut config);
    config
}
