//! Where logs begin and end, asked of the brokers for many partitions at once, and whether a stored position lies
//! inside.
//!
//! A position outside is never moved by itself: an operator decides what it would skip ([`crate::fence::repair`]).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

/// How much later than the youngest record before a position another one must be to count as younger than all that were
/// read. No clock of a leader passes it where a log stays: whatever lies before a position was read, so its time is in
/// the youngest, be it fast or slow. It is for a time that was stored a little low.
pub(super) const CLOCK_SLACK_MS: i64 = 5_000;
/// How long looking for leaders may take where there was none.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// What the brokers say of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// Offset of the first record that is kept.
    pub begin: i64,
    /// Offset after the last record that may be read: an open transaction holds it back.
    pub end: i64,
    /// First offset of what was appended clearly after all records that were read before the position; `None`: there is
    /// none, or no such time is known. The brokers count what readers do not see, the ends of transactions and what was
    /// aborted: see [`super::younger`].
    pub first_later: Option<i64>,
}

/// A position that does not fit its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// The log begins after it: records were deleted before they were read.
    Truncated(i64, LogBounds),
    /// It lies behind the log's end, or something before it is younger than all that was read: this is another log of
    /// the same name, or another end of the same log.
    Recreated(i64, LogBounds),
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Truncated(next, bounds) | Self::Recreated(next, bounds)) = self;
        let LogBounds { begin, end, first_later } = bounds;
        write!(f, "the position is {next}, the log reaches from {begin} to {end}")?;
        match self {
            Self::Recreated(..) if (*begin..=*end).contains(next) => {
                let later = first_later.unwrap_or(*begin);
                write!(
                    f,
                    ", and from {later} on it holds records before the position that are younger than all that was read: \
                     it was made anew, or lost its end and grew again"
                )
            }
            Self::Truncated(..) | Self::Recreated(..) => Ok(()),
        }
    }
}

/// Why `next_offset` cannot be read in this log, if so.
pub fn outside(next_offset: i64, bounds: &LogBounds) -> Option<Outside> {
    if next_offset < bounds.begin {
        return Some(Outside::Truncated(next_offset, *bounds));
    }
    // What lies before the position was read, so it is no younger than the youngest record that was. Where no time is
    // known, nothing is told.
    let is_younger = bounds.begin < next_offset && bounds.first_later.is_some_and(|later| later < next_offset);
    (next_offset > bounds.end || is_younger).then_some(Outside::Recreated(next_offset, *bounds))
}

/// A partition, and the youngest append time before a position in it, if known (milliseconds since the Unix epoch).
pub type Asked = (i32, Option<i64>);

/// What the brokers said, per partition. One that has no leader, or whose leader does not answer, takes nothing from
/// the others.
pub type Answers<T> = BTreeMap<i32, Result<T, KafkaError>>;

/// Asks for partitions of one topic.
pub fn ask<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: &[Asked],
    timeout: Duration,
) -> Answers<LogBounds> {
    let all = |offset: Offset| partitions.iter().map(move |(partition, _)| (*partition, offset));
    let mut answers: Answers<LogBounds> = BTreeMap::new();
    for (partition, begin) in offsets(client, topic, all(Offset::Beginning).collect(), timeout) {
        answers.insert(partition, known(begin).map(|begin| LogBounds { begin, end: begin, first_later: None }));
    }
    // Who did not answer is not asked further.
    let ends = all(Offset::End).filter(|(partition, _)| answers.get(partition).is_some_and(Result::is_ok)).collect();
    for (partition, end) in offsets(client, topic, ends, timeout) {
        answers.entry(partition).and_modify(|answer| amend(answer, known(end), |bounds, end| bounds.end = end));
    }
    let timed = partitions
        .iter()
        .filter(|(partition, _)| answers.get(partition).is_some_and(Result::is_ok))
        .filter_map(|(partition, time_ms)| {
            let time_ms = (*time_ms).filter(|time_ms| *time_ms >= 0)?;
            Some((*partition, Offset::Offset(time_ms.saturating_add(CLOCK_SLACK_MS + 1))))
        });
    for (partition, later) in offsets(client, topic, timed.collect(), timeout) {
        answers.entry(partition).and_modify(|answer| amend(answer, later, |bounds, later| bounds.first_later = later));
    }
    answers
}

/// The ends of partitions of one topic.
pub fn ends<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: impl Iterator<Item = i32>,
    timeout: Duration,
) -> Answers<i64> {
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
) -> Answers<i64> {
    let wanted = partitions.map(|partition| (partition, Offset::Offset(time_ms))).collect();
    let mut found: Answers<Option<i64>> = offsets(client, topic, wanted, timeout);
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

fn amend<T>(
    answer: &mut Result<LogBounds, KafkaError>,
    further: Result<T, KafkaError>,
    amend: impl Fn(&mut LogBounds, T),
) {
    match (answer.as_mut(), further) {
        (Ok(bounds), Ok(further)) => amend(bounds, further),
        (Ok(_), Err(error)) => *answer = Err(error),
        (Err(_), _) => {}
    }
}

/// A time is given as an offset, as librdkafka wants it; a time after the last record has no offset.
fn offsets<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    wanted: Vec<(i32, Offset)>,
    timeout: Duration,
) -> Answers<Option<i64>> {
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
) -> Result<Answers<Option<i64>>, KafkaError> {
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
) -> Answers<Option<i64>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn log(begin: i64, end: i64, first_later: Option<i64>) -> LogBounds {
        LogBounds { begin, end, first_later }
    }

    #[test]
    fn a_position_from_the_logs_begin_to_its_end_is_inside() {
        for next in [10, 15, 20] {
            assert_eq!(outside(next, &log(10, 20, None)), None);
            assert_eq!(outside(next, &log(10, 20, Some(next))), None, "what was not read yet is younger");
        }
    }

    #[test]
    fn before_the_begin_records_were_deleted_and_behind_the_end_it_is_another_log() {
        assert!(matches!(outside(9, &log(10, 20, None)), Some(Outside::Truncated(9, _))));
        assert!(matches!(outside(21, &log(10, 20, None)), Some(Outside::Recreated(21, _))));
    }

    #[test]
    fn a_log_whose_first_record_is_younger_than_what_was_read_last_is_another_one() {
        let recreated = outside(15, &log(10, 20, Some(10))).unwrap();
        assert!(recreated.to_string().contains("made anew"), "{recreated}");
        assert_eq!(
            outside(10, &log(10, 20, Some(10))),
            None,
            "nothing before the position is kept, so nothing can be told"
        );
        assert_eq!(outside(10, &log(10, 10, None)), None, "an empty log");
    }

    #[test]
    fn a_log_that_lost_its_end_and_grew_beyond_the_position_is_another_one_from_there_on() {
        let regrown = outside(1000, &log(0, 1005, Some(900))).unwrap();
        assert!(
            regrown.to_string().contains("from 900 on") && regrown.to_string().contains("lost its end"),
            "{regrown}"
        );
        assert!(outside(1000, &log(0, 1000, Some(999))).is_some(), "also when it ends at the position");
        assert_eq!(outside(1000, &log(0, 1005, Some(1000))), None, "the first that was not read yet");
        assert_eq!(outside(1000, &log(0, 1005, None)), None, "without a time nothing can be told");
    }
}
