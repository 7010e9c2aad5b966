//! Starts and ends of logs, queried from the brokers for many partitions at once.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

/// Timeout of the metadata request that looks up new leaders.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);

/// Bounds of the log of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// Offset of the first record that is kept.
    pub start: i64,
    /// Offset after the last record that may be read: an open transaction holds it back.
    pub end: i64,
}

impl LogBounds {
    /// Whether a consumer can continue at `next_offset`.
    pub fn contains(&self, next_offset: i64) -> bool {
        (self.start..=self.end).contains(&next_offset)
    }
}

/// Answers of the brokers, per partition. A partition that is leaderless has an error, which does not affect the
/// others.
pub type PerPartition<T> = BTreeMap<i32, Result<T, KafkaError>>;

/// The bounds of some partitions of one topic. `timeout` is that of one request.
pub fn query<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    timeout: Duration,
) -> PerPartition<LogBounds> {
    let all = |offset: Offset| partitions.iter().map(move |partition| (*partition, offset));
    let mut answers: PerPartition<LogBounds> = BTreeMap::new();
    for (partition, start) in offsets(client, topic, all(Offset::Beginning).collect(), timeout) {
        answers.insert(partition, require_offset(start).map(|start| LogBounds { start, end: start }));
    }
    // Partitions without an answer are not queried again.
    let ends = all(Offset::End).filter(|(partition, _)| answers.get(partition).is_some_and(Result::is_ok)).collect();
    for (partition, end) in offsets(client, topic, ends, timeout) {
        let (Some(Ok(bounds)), end) = (answers.get(&partition).cloned(), require_offset(end)) else { continue };
        answers.insert(partition, end.map(|end| LogBounds { end, ..bounds }));
    }
    answers
}

/// The ends of some partitions of one topic.
pub fn ends<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: impl Iterator<Item = i32>,
    timeout: Duration,
) -> PerPartition<i64> {
    let wanted = partitions.map(|partition| (partition, Offset::End)).collect();
    offsets(client, topic, wanted, timeout)
        .into_iter()
        .map(|(partition, end)| (partition, require_offset(end)))
        .collect()
}

/// In each of these partitions, the offset of the first record that was appended at `time_ms` (milliseconds since the
/// Unix epoch) or later; the end of the log where there is none.
pub(super) fn at<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: impl Iterator<Item = i32>,
    time_ms: i64,
    timeout: Duration,
) -> PerPartition<i64> {
    let wanted = partitions.map(|partition| (partition, Offset::Offset(time_ms))).collect();
    let mut found: PerPartition<Option<i64>> = offsets(client, topic, wanted, timeout);
    let is_after_all = |answer: &Result<Option<i64>, KafkaError>| matches!(answer, Ok(None));
    let after: Vec<i32> =
        found.iter().filter(|(_, answer)| is_after_all(answer)).map(|(partition, _)| *partition).collect();
    for (partition, end) in ends(client, topic, after.into_iter(), timeout) {
        found.insert(partition, end.map(Some));
    }
    found.into_iter().map(|(partition, answer)| (partition, require_offset(answer))).collect()
}

/// Every log has a start and an end, so a missing offset is an error.
fn require_offset(offset: Result<Option<i64>, KafkaError>) -> Result<i64, KafkaError> {
    offset?.ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset))
}

/// librdkafka takes a time in the place of an offset; a time after the last record has no offset.
fn offsets<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    wanted: Vec<(i32, Offset)>,
    timeout: Duration,
) -> PerPartition<Option<i64>> {
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let answers = match query_together(client, topic, &wanted, timeout) {
        Ok(answers) => answers,
        Err(error) if wanted.len() == 1 => {
            wanted.iter().map(|(partition, _)| (*partition, Err(error.clone()))).collect()
        }
        // librdkafka fails the whole request when one broker does not answer, or refuses one partition.
        Err(_) => query_each(client, topic, &wanted, timeout),
    };
    if answers.values().any(Result::is_err) {
        // Without a metadata request librdkafka assumes for minutes that a partition has no leader. The next query
        // profits from it.
        let _refreshed = client.fetch_metadata(Some(topic), timeout.min(METADATA_TIMEOUT));
    }
    answers
}

/// One request per broker.
fn query_together<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    wanted: &[(i32, Offset)],
    timeout: Duration,
) -> Result<PerPartition<Option<i64>>, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in wanted {
        list.add_partition_offset(topic, *partition, *offset)?;
    }
    let found = client.offsets_for_times(list, timeout)?;
    let answer = |element: &TopicPartitionListElem<'_>| {
        // Without an answer the element still has the offset of the request.
        let offset =
            element.error().map(|()| if let Offset::Offset(offset) = element.offset() { Some(offset) } else { None });
        (element.partition(), offset)
    };
    Ok(found.elements().iter().map(answer).collect())
}

/// One request per partition, all at once: the timeout is waited for once, not once per partition.
fn query_each<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    wanted: &[(i32, Offset)],
    timeout: Duration,
) -> PerPartition<Option<i64>> {
    std::thread::scope(|scope| {
        let query = |one| scope.spawn(move || query_together(client, topic, std::slice::from_ref(one), timeout));
        let queries: Vec<_> = wanted.iter().map(|one| (one.0, query(one))).collect();
        let mut answers = BTreeMap::new();
        for (partition, query) in queries {
            match query.join() {
                Ok(Ok(answer)) => answers.extend(answer),
                Ok(Err(error)) => drop(answers.insert(partition, Err(error))),
                Err(_panicked) => drop(answers.insert(partition, Err(KafkaError::OffsetFetch(RDKafkaErrorCode::Fail)))),
            }
        }
        answers
    })
}
