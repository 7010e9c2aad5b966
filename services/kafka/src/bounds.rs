//! Where logs begin and end, asked of the brokers for many partitions at once.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

/// How long looking for leaders may take where there was none.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// What the brokers say of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// Offset of the first record that is kept.
    pub begin: i64,
    /// Offset after the last record that may be read: an open transaction holds it back.
    pub end: i64,
}

impl LogBounds {
    /// Whether a consumer can go on at `next_offset`.
    pub fn contains(&self, next_offset: i64) -> bool {
        (self.begin..=self.end).contains(&next_offset)
    }
}

/// What the brokers said, per partition. One that has no leader, or whose leader does not answer, takes nothing from
/// the others.
pub type PerPartition<T> = BTreeMap<i32, Result<T, KafkaError>>;

/// Asks for partitions of one topic.
pub fn ask<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    timeout: Duration,
) -> PerPartition<LogBounds> {
    let all = |offset: Offset| partitions.iter().map(move |partition| (*partition, offset));
    let mut answers: PerPartition<LogBounds> = BTreeMap::new();
    for (partition, begin) in offsets(client, topic, all(Offset::Beginning).collect(), timeout) {
        answers.insert(partition, known(begin).map(|begin| LogBounds { begin, end: begin }));
    }
    // Who did not answer is not asked further.
    let ends = all(Offset::End).filter(|(partition, _)| answers.get(partition).is_some_and(Result::is_ok)).collect();
    for (partition, end) in offsets(client, topic, ends, timeout) {
        let (Some(Ok(bounds)), end) = (answers.get(&partition).cloned(), known(end)) else { continue };
        answers.insert(partition, end.map(|end| LogBounds { end, ..bounds }));
    }
    answers
}

/// The ends of partitions of one topic.
pub fn ends<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: impl Iterator<Item = i32>,
    timeout: Duration,
) -> PerPartition<i64> {
    let wanted = partitions.map(|partition| (partition, Offset::End)).collect();
    offsets(client, topic, wanted, timeout).into_iter().map(|(partition, end)| (partition, known(end))).collect()
}

/// In each of these partitions the offset of the first record appended at `time_ms` (milliseconds since the Unix epoch)
/// or later; its end where there is none.
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
    found.into_iter().map(|(partition, answer)| (partition, known(answer))).collect()
}

/// Every log has a begin and an end.
fn known(offset: Result<Option<i64>, KafkaError>) -> Result<i64, KafkaError> {
    offset?.ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset))
}

/// A time is given as an offset, as librdkafka wants it; a time after the last record has no offset.
fn offsets<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    wanted: Vec<(i32, Offset)>,
    timeout: Duration,
) -> PerPartition<Option<i64>> {
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let answers = match together(client, topic, &wanted, timeout) {
        Ok(answers) => answers,
        Err(error) if wanted.len() == 1 => {
            wanted.iter().map(|(partition, _)| (*partition, Err(error.clone()))).collect()
        }
        // librdkafka gives up on all when one broker does not answer, or refuses one partition.
        Err(_) => each_alone(client, topic, &wanted, timeout),
    };
    if answers.values().any(Result::is_err) {
        // It believes for minutes that a partition has no leader, unless it is made to look. This is for who asks next.
        let _looked = client.fetch_metadata(Some(topic), timeout.min(LOOK_TIMEOUT));
    }
    answers
}

/// One request per broker.
fn together<C: ConsumerContext>(
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
        // Without an answer the offset is still what was asked for.
        let offset =
            element.error().map(|()| if let Offset::Offset(offset) = element.offset() { Some(offset) } else { None });
        (element.partition(), offset)
    };
    Ok(found.elements().iter().map(answer).collect())
}

/// One request per partition, all at once: those that are not answered take the time-out once, and not once each.
fn each_alone<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    wanted: &[(i32, Offset)],
    timeout: Duration,
) -> PerPartition<Option<i64>> {
    std::thread::scope(|scope| {
        let ask = |one| scope.spawn(move || together(client, topic, std::slice::from_ref(one), timeout));
        let asked: Vec<_> = wanted.iter().map(|one| (one.0, ask(one))).collect();
        let mut answers = BTreeMap::new();
        for (partition, asked) in asked {
            match asked.join() {
                Ok(Ok(answer)) => answers.extend(answer),
                Ok(Err(error)) => drop(answers.insert(partition, Err(error))),
                Err(_panicked) => drop(answers.insert(partition, Err(KafkaError::OffsetFetch(RDKafkaErrorCode::Fail)))),
            }
        }
        answers
    })
}
