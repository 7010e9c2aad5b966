//! Whether reading can continue at a stored position: it is inside of its log, and the log is the one that the position
//! belongs to.
//!
//! Two things identify a log. The topic id (KIP-516) changes when a topic is deleted and created again. The leader
//! epoch of a record that was read (KIP-320) shows whether the log still has that record and those before it: in an
//! unclean election the log may lose them and get other ones at their offsets.
//!
//! A position outside of its log is never moved automatically: skipping records is an operator's decision
//! ([`crate::fence::repair`]).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use uuid::Uuid;

use super::bounds::{self, LogBounds, PerPartition};
use super::log_identity::PartitionPosition;
use super::{KafkaConfig, ffi, validation};

/// The state of the log of a position, as the brokers report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    /// Start and end of the log.
    pub bounds: LogBounds,
    /// Id of the topic; `None`: unknown.
    pub topic_id: Option<Uuid>,
    /// Why reading cannot continue at the position, if so.
    pub mismatch: Option<LogMismatch>,
}

/// Why reading cannot continue at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogMismatch {
    /// The log starts after it: records were deleted before they were read.
    Truncated(i64, LogBounds),
    /// The topic was deleted and created again: the ids before and now.
    Recreated(Uuid, Uuid),
    /// The log ends before the position.
    BehindEnd(i64, LogBounds),
    /// The log lost records before the position, and grew again.
    LostEnd(i64, LogBounds),
}

impl LogMismatch {
    /// Whether offsets of the log no longer mean what they meant when the position was stored.
    pub fn is_another_log(&self) -> bool {
        !matches!(self, Self::Truncated(..))
    }

    /// The name of the state, as `positions list` prints it.
    pub fn name(&self) -> &'static str {
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
            Self::Truncated(next, LogBounds { start, end }) | Self::BehindEnd(next, LogBounds { start, end }) => {
                write!(f, "the position is {next}, the log reaches from {start} to {end}")
            }
            Self::Recreated(before, now) => {
                write!(f, "the topic was deleted and created again: its id was {before} and is {now}")
            }
            Self::LostEnd(next, LogBounds { start, end }) => write!(
                f,
                "the position is {next}, the log reaches from {start} to {end}, but it lost records before the \
                 position and has other ones at their offsets (unclean leader election)"
            ),
        }
    }
}

/// Why reading cannot continue at `position`, as far as topic ids and bounds show.
pub fn mismatch(position: &PartitionPosition, topic_id: Option<Uuid>, bounds: LogBounds) -> Option<LogMismatch> {
    match (position.identity.topic_id, topic_id) {
        (Some(before), Some(now)) if before != now => Some(LogMismatch::Recreated(before, now)),
        _ if position.next_offset < bounds.start => Some(LogMismatch::Truncated(position.next_offset, bounds)),
        _ if position.next_offset > bounds.end => Some(LogMismatch::BehindEnd(position.next_offset, bounds)),
        _ => None,
    }
}

/// Queries the state of the logs of some positions in one topic: two requests per broker for the bounds, and one per
/// partition to validate a leader epoch. `topic_id` is the topic's id now, from [`topic_ids`]. `timeout` is that of one
/// request. A leaderless partition has an error, which does not affect the others.
pub fn query<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    kafka: &KafkaConfig,
    topic: &str,
    topic_id: Option<Uuid>,
    positions: &[PartitionPosition],
    timeout: Duration,
) -> PerPartition<LogState> {
    if positions.is_empty() {
        return PerPartition::new();
    }
    let partitions: Vec<i32> = positions.iter().map(|position| position.partition).collect();
    let mut states: PerPartition<LogState> = bounds::query(client, topic, &partitions, timeout)
        .into_iter()
        .map(|(partition, bounds)| (partition, bounds.map(|bounds| LogState { bounds, topic_id, mismatch: None })))
        .collect();
    let mut to_validate = Vec::new();
    for position in positions {
        let Some(Ok(state)) = states.get_mut(&position.partition) else { continue };
        state.mismatch = mismatch(position, topic_id, state.bounds);
        if state.mismatch.is_none() {
            to_validate.push(*position);
        }
    }
    for (position, has_records) in validation::has_records_before(kafka, topic, &to_validate, timeout) {
        let Some(state) = states.get_mut(&position.partition) else { continue };
        match (has_records, state.as_mut()) {
            (Ok(false), Ok(state)) => state.mismatch = Some(LogMismatch::LostEnd(position.next_offset, state.bounds)),
            (Err(error), _) => *state = Err(error),
            _ => {}
        }
    }
    states
}

/// The ids of topics, in one request. Topics that do not exist, and topics without an id, are missing in the result.
///
/// # Errors
/// When the controller does not answer within `timeout`: librdkafka queries no other broker.
pub fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<BTreeMap<String, Uuid>, KafkaError> {
    if topics.is_empty() { Ok(BTreeMap::new()) } else { ffi::topic_ids(client, topics, timeout) }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::log_identity::LogIdentity;

    const LOG: LogBounds = LogBounds { start: 10, end: 20 };

    fn position(next_offset: i64, topic_id: Option<Uuid>) -> PartitionPosition {
        PartitionPosition { partition: 0, next_offset, identity: LogIdentity { topic_id, leader_epoch: None } }
    }

    #[test]
    fn a_position_from_start_to_end_is_inside() {
        for next in [10, 15, 20] {
            assert_eq!(mismatch(&position(next, None), None, LOG), None);
        }
        assert_eq!(mismatch(&position(9, None), None, LOG), Some(LogMismatch::Truncated(9, LOG)));
        assert_eq!(mismatch(&position(21, None), None, LOG), Some(LogMismatch::BehindEnd(21, LOG)));
    }

    #[test]
    fn another_topic_id_is_another_log_at_any_position() {
        let (before, now) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for next in [9, 15, 21] {
            let found = mismatch(&position(next, Some(before)), Some(now), LOG);
            assert_eq!(found, Some(LogMismatch::Recreated(before, now)), "{next}");
        }
        assert_eq!(mismatch(&position(15, Some(now)), Some(now), LOG), None);
        for (stored, reported) in [(None, Some(now)), (Some(now), None)] {
            assert_eq!(mismatch(&position(15, stored), reported, LOG), None, "an unknown id is not compared");
        }
    }
}
