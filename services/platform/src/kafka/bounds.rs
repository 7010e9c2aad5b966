//! Where logs begin and end, asked of the brokers for many partitions at once, and whether a stored position lies inside.
//!
//! A position outside is never moved by itself: what it would skip is an operator's to decide ([`crate::fence::mend`]).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

/// How much later than the last record before a position the log's first record must be to count as another log's. Covers a clock of ours
/// that is behind the broker's: for places without a record the time is ours.
const CLOCK_SLACK_MS: i64 = 5_000;

/// What the brokers say of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// Offset of the first record that is kept.
    pub begin: i64,
    /// Offset after the last record that may be read: an open transaction holds it back.
    pub end: i64,
    /// Offset of the first record that was appended clearly after the last one before the position; `None`: there is none, or no such time
    /// is known.
    pub first_later: Option<i64>,
}

/// A position that does not fit its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// The log begins after it: records were deleted before they were read.
    Truncated(i64, LogBounds),
    /// It lies behind the log's end, or everything before it is younger than what was read last: this is another log of the same name.
    Recreated(i64, LogBounds),
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Truncated(next, LogBounds { begin, end, .. }) | Self::Recreated(next, LogBounds { begin, end, .. })) = self;
        write!(f, "the position is {next}, the log reaches from {begin} to {end}")?;
        match self {
            Self::Recreated(..) if (*begin..=*end).contains(next) => {
                write!(f, ", and all of it is younger than the last record before the position: the topic was made anew")
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
    // In one log times grow with offsets. So what lies before the position is no younger than the record that was passed last.
    let is_younger = bounds.begin < next_offset && bounds.first_later.is_some_and(|later| later <= bounds.begin);
    (next_offset > bounds.end || is_younger).then_some(Outside::Recreated(next_offset, *bounds))
}

/// A partition, and the append time of the last record before a position in it, if known (milliseconds since the Unix epoch).
pub type Asked = (i32, Option<i64>);

/// Asks for partitions of one topic.
///
/// # Errors
/// When the brokers do not answer for all of them.
pub fn ask<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: &[Asked],
    timeout: Duration,
) -> Result<BTreeMap<i32, LogBounds>, KafkaError> {
    let all = |offset: Offset| partitions.iter().map(move |(partition, _)| (*partition, offset));
    let begins = offsets(client, topic, all(Offset::Beginning), timeout)?;
    let ends = offsets(client, topic, all(Offset::End), timeout)?;
    let timed = partitions.iter().filter_map(|(partition, time_ms)| {
        let time_ms = (*time_ms).filter(|time_ms| *time_ms >= 0)?;
        Some((*partition, Offset::Offset(time_ms.saturating_add(CLOCK_SLACK_MS + 1))))
    });
    let later = offsets(client, topic, timed, timeout)?;
    let bounds = |(partition, begin): (&i32, &i64)| {
        let end = *ends.get(partition)?;
        Some((*partition, LogBounds { begin: *begin, end, first_later: later.get(partition).copied() }))
    };
    Ok(begins.iter().filter_map(bounds).collect())
}

/// The ends of partitions of one topic.
///
/// # Errors
/// As [`ask`].
pub fn ends<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partitions: impl Iterator<Item = i32>,
    timeout: Duration,
) -> Result<BTreeMap<i32, i64>, KafkaError> {
    offsets(client, topic, partitions.map(|partition| (partition, Offset::End)), timeout)
}

/// One request per broker. A time is given as an offset, as librdkafka wants it; a time after the last record has no offset.
fn offsets<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    wanted: impl Iterator<Item = (i32, Offset)>,
    timeout: Duration,
) -> Result<BTreeMap<i32, i64>, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in wanted {
        list.add_partition_offset(topic, partition, offset)?;
    }
    if list.count() == 0 {
        return Ok(BTreeMap::new());
    }
    let mut found = BTreeMap::new();
    for element in client.offsets_for_times(list, timeout)?.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            found.insert(element.partition(), offset);
        }
    }
    Ok(found)
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
        assert_eq!(outside(15, &log(10, 20, Some(11))), None, "something before the position is as old as it should be");
        assert_eq!(outside(10, &log(10, 20, Some(10))), None, "nothing before the position is kept, so nothing can be told");
    }
}
