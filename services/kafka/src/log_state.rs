//! Whether a stored position can be read on: it lies inside of its log, and the log is the one that the position is of.
//!
//! Two things identify a log. The topic id (KIP-516) is another one when a topic was deleted and created again. The
//! leader epoch of a record that was read (KIP-320) tells whether the log still holds that record and those before it;
//! after an unclean election it may have lost them and have other ones at their offsets.
//!
//! A position outside is never moved automatically: what that would skip is an operator's decision
//! ([`crate::fence::repair`]).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use uuid::Uuid;

use super::bounds::{self, LogBounds, PerPartition};
use super::{KafkaConfig, ffi, validation};

/// What is stored of the log that a position is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogIdentity {
    /// Kafka's id of the topic; `None`: not known, so nothing is compared.
    pub topic_id: Option<Uuid>,
    /// Highest leader epoch of the records that were read. It is never lower than that of the record before the
    /// position; `None`: not known, so nothing is validated.
    pub leader_epoch: Option<i32>,
}

/// A stored position in one partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPosition {
    /// Partition.
    pub partition: i32,
    /// Offset of the next record.
    pub next_offset: i64,
    /// Which log that offset is in.
    pub identity: LogIdentity,
}

/// What the brokers say of the log that a position is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    /// Where the log begins and ends.
    pub bounds: LogBounds,
    /// Id of the topic; `None`: the brokers have none.
    pub topic_id: Option<Uuid>,
    /// Why the position cannot be read on, if so.
    pub mismatch: Option<LogMismatch>,
}

/// Why a position cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogMismatch {
    /// The log begins after it: records were deleted before they were read.
    Truncated(i64, LogBounds),
    /// The topic was deleted and created again: the ids before and now.
    Recreated(Uuid, Uuid),
    /// The log ends before it.
    BehindEnd(i64, LogBounds),
    /// The log does not hold the records before it any more: it lost its end and grew again.
    LostEnd(i64, LogBounds),
}

impl LogMismatch {
    /// Whether offsets of the log do not mean what they meant when the position was stored.
    pub fn is_another_log(&self) -> bool {
        !matches!(self, Self::Truncated(..))
    }

    /// The state, as `positions list` prints it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Truncated(..) => "truncated",
            Self::Recreated(..) => "recreated",
            Self::BehindEnd(..) | Self::LostEnd(..) => "lost_end",
        }
    }
}

impl fmt::Display for LogMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(next, LogBounds { begin, end }) | Self::BehindEnd(next, LogBounds { begin, end }) => {
                write!(f, "the position is {next}, the log reaches from {begin} to {end}")
            }
            Self::Recreated(before, now) => {
                write!(f, "the topic was deleted and created again: its id was {before} and is {now}")
            }
            Self::LostEnd(next, LogBounds { begin, end }) => write!(
                f,
                "the position is {next}, the log reaches from {begin} to {end}, but it lost records before the position \
                 and has other ones at their offsets (unclean leader election)"
            ),
        }
    }
}

/// Why `place` cannot be read on, as far as ids and bounds tell.
pub fn mismatch(place: &LogPosition, topic_id: Option<Uuid>, bounds: LogBounds) -> Option<LogMismatch> {
    match (place.identity.topic_id, topic_id) {
        (Some(before), Some(now)) if before != now => Some(LogMismatch::Recreated(before, now)),
        _ if place.next_offset < bounds.begin => Some(LogMismatch::Truncated(place.next_offset, bounds)),
        _ if place.next_offset > bounds.end => Some(LogMismatch::BehindEnd(place.next_offset, bounds)),
        _ => None,
    }
}

/// Asks the brokers about positions in one topic: two requests per broker for the bounds, and one per partition to
/// validate a leader epoch. `topic_id` is the topic's id now, of [`topic_ids`]. `timeout` is that of one request. A
/// partition that has no leader, or whose leader does not answer, takes nothing from the others.
pub fn ask<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    kafka: &KafkaConfig,
    topic: &str,
    topic_id: Option<Uuid>,
    places: &[LogPosition],
    timeout: Duration,
) -> PerPartition<LogState> {
    if places.is_empty() {
        return PerPartition::new();
    }
    let partitions: Vec<i32> = places.iter().map(|place| place.partition).collect();
    let mut states: PerPartition<LogState> = bounds::ask(client, topic, &partitions, timeout)
        .into_iter()
        .map(|(partition, bounds)| (partition, bounds.map(|bounds| LogState { bounds, topic_id, mismatch: None })))
        .collect();
    let mut in_doubt = Vec::new();
    for place in places {
        let Some(Ok(state)) = states.get_mut(&place.partition) else { continue };
        state.mismatch = mismatch(place, topic_id, state.bounds);
        if state.mismatch.is_none() {
            in_doubt.push(*place);
        }
    }
    for (place, is_held) in validation::holds_records_before(kafka, topic, &in_doubt, timeout) {
        let Some(state) = states.get_mut(&place.partition) else { continue };
        match (is_held, state.as_mut()) {
            (Ok(false), Ok(known)) => known.mismatch = Some(LogMismatch::LostEnd(place.next_offset, known.bounds)),
            (Err(error), _) => *state = Err(error),
            _ => {}
        }
    }
    states
}

/// The ids of topics, in one request. A topic that does not exist, or that the brokers give no id for, is not in the
/// answer.
///
/// # Errors
/// When the controller does not answer within `timeout`: librdkafka asks no other broker.
pub fn topic_ids<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<BTreeMap<String, Uuid>, KafkaError> {
    if topics.is_empty() { Ok(BTreeMap::new()) } else { ffi::topic_ids(client, topics, timeout) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogBounds = LogBounds { begin: 10, end: 20 };

    fn place(next_offset: i64, topic_id: Option<Uuid>) -> LogPosition {
        LogPosition { partition: 0, next_offset, identity: LogIdentity { topic_id, leader_epoch: None } }
    }

    #[test]
    fn a_position_from_begin_to_end_is_inside() {
        for next in [10, 15, 20] {
            assert_eq!(mismatch(&place(next, None), None, LOG), None);
        }
        assert_eq!(mismatch(&place(9, None), None, LOG), Some(LogMismatch::Truncated(9, LOG)));
        assert_eq!(mismatch(&place(21, None), None, LOG), Some(LogMismatch::BehindEnd(21, LOG)));
    }

    #[test]
    fn another_topic_id_is_another_log_wherever_the_position() {
        let (before, now) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for next in [9, 15, 21] {
            let found = mismatch(&place(next, Some(before)), Some(now), LOG);
            assert_eq!(found, Some(LogMismatch::Recreated(before, now)), "{next}");
        }
        assert_eq!(mismatch(&place(15, Some(now)), Some(now), LOG), None);
        for (stored, reported) in [(None, Some(now)), (Some(now), None)] {
            assert_eq!(mismatch(&place(15, stored), reported, LOG), None, "an id that is not known is not compared");
        }
    }
}
