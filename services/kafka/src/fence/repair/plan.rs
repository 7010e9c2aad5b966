//! What repairing positions does, decided before anything is changed. Pure.

use schemas::topics;
use uuid::Uuid;

use super::{LogChange, StoredPosition};
use crate::log_state::{LogMismatch, LogState};

/// A position and its log.
#[derive(Debug, Clone)]
pub struct CheckedPosition {
    /// As it is stored.
    pub position: StoredPosition,
    /// `None`: the brokers did not answer.
    pub log: Option<LogState>,
}

impl CheckedPosition {
    /// Why the consumer cannot continue at the position; `None`: it can, or that is unknown.
    pub fn mismatch(&self) -> Option<&LogMismatch> {
        self.log.as_ref()?.mismatch.as_ref()
    }

    /// One word for it: `ok`, `truncated`, `recreated`, `lost_end` or `unknown`.
    pub fn state(&self) -> &'static str {
        match (&self.log, self.mismatch()) {
            (None, _) => "unknown",
            (_, None) => "ok",
            (_, Some(mismatch)) => mismatch.name(),
        }
    }
}

/// How a position is repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairMode {
    /// The consumer continues at the start of the log.
    ReadAgain,
    /// The operator knows that the offsets still mean the same records: the consumer continues at its position, and the
    /// topic id is accepted as it is now.
    KeepOffset,
}

/// What is done to one partition of a topic.
#[derive(Debug)]
pub struct Repair<'a> {
    /// Full topic name.
    pub topic: &'a str,
    /// Partition.
    pub partition: i32,
    /// Positions that are set.
    pub moved: Vec<&'a CheckedPosition>,
    /// Positions of other consumers, which are not changed.
    pub stays: Vec<&'a CheckedPosition>,
    /// The offset that they are set to.
    pub to: i64,
    /// Whether the log is another one.
    pub log: LogChange,
    /// Id of the topic, which is stored.
    pub topic_id: Option<Uuid>,
}

/// Why a position cannot be repaired.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// Without bounds nothing can be set.
    #[error("{0}: the brokers did not report where its log starts and ends")]
    Unknown(String),
    /// There is nothing to repair.
    #[error("{0} is inside of its log")]
    Inside(String),
    /// The log does not have that offset.
    #[error("{0} is outside of its log and cannot be kept")]
    CannotKeep(String),
}

/// The repairs of the `wanted` positions. Those inside of their log need none, except to keep their offset.
pub fn plan<'a>(
    known: &'a [CheckedPosition],
    wanted: impl Fn(&StoredPosition) -> bool,
    mode: RepairMode,
) -> Vec<Repair<'a>> {
    let named: Vec<&CheckedPosition> = known.iter().filter(|known| wanted(&known.position)).collect();
    let mut repairs: Vec<Repair<'a>> = Vec::new();
    for one in named.iter().filter(|one| mode != RepairMode::ReadAgain || one.mismatch().is_some()) {
        let (topic, partition) = (one.position.topic.as_str(), one.position.partition);
        let Some(log_now) = &one.log else { continue };
        if repairs.iter().any(|repair| (repair.topic, repair.partition) == (topic, partition)) {
            continue;
        }
        let here =
            |known: &&&CheckedPosition| (known.position.topic.as_str(), known.position.partition) == (topic, partition);
        let all: Vec<&CheckedPosition> = known.iter().collect();
        // If the log is another one, it is so for every consumer.
        let is_another = |known: &&CheckedPosition| known.mismatch().is_some_and(LogMismatch::is_another_log);
        let is_new_log = mode == RepairMode::ReadAgain && all.iter().filter(here).any(is_another);
        let is_moved = |known: &CheckedPosition| {
            is_new_log || (wanted(&known.position) && (mode == RepairMode::KeepOffset || known.mismatch().is_some()))
        };
        let (moved, stays): (Vec<&CheckedPosition>, Vec<&CheckedPosition>) =
            all.iter().filter(here).copied().partition(|known| is_moved(known));
        let to = if mode == RepairMode::KeepOffset { one.position.next_offset } else { log_now.bounds.start };
        let log = if is_new_log { LogChange::NewLog } else { LogChange::SameLog };
        repairs.push(Repair { topic, partition, moved, stays, to, log, topic_id: log_now.topic_id });
    }
    repairs
}

/// Checks whether the position can be repaired.
pub fn check(named: &CheckedPosition, mode: RepairMode) -> Result<(), Refusal> {
    let StoredPosition { consumer, topic, partition, .. } = &named.position;
    let name = format!("{consumer} at {topic}[{partition}]");
    let Some(log) = &named.log else { return Err(Refusal::Unknown(name)) };
    match mode {
        RepairMode::ReadAgain if named.mismatch().is_none() => Err(Refusal::Inside(name)),
        RepairMode::KeepOffset if !log.bounds.contains(named.position.next_offset) => Err(Refusal::CannotKeep(name)),
        _ => Ok(()),
    }
}

impl Repair<'_> {
    /// What the repair does and which records are given up, one line per position.
    pub fn lines(&self) -> Vec<String> {
        let line = |known: &&CheckedPosition| {
            let (consumer, from) = (&known.position.consumer, known.position.next_offset);
            let skipped = if self.log == LogChange::NewLog {
                let (read, given_up) = self.effects_of_new_log();
                format!(
                    "the log is another one, and all of it is read: {read}; records of the old log from {from} on, \
                     which this consumer had not read, are given up{given_up}"
                )
            } else if self.to > from {
                format!("{} records were deleted before this consumer read them and are given up", self.to - from)
            } else {
                "nothing is given up".to_owned()
            };
            format!("{consumer} at {}[{}]: from {from} to {}; {skipped}", self.topic, self.partition, self.to)
        };
        let stays = |known: &&CheckedPosition| {
            let (consumer, at) = (&known.position.consumer, known.position.next_offset);
            format!("{consumer} at {}[{}]: stays at {at}", self.topic, self.partition)
        };
        self.moved.iter().map(line).chain(self.stays.iter().map(stays)).collect()
    }

    /// What it means that another log is read from its start, and that the rest of the old one is not.
    fn effects_of_new_log(&self) -> (&'static str, &'static str) {
        if self.topic.ends_with(topics::ACKS) {
            ("an event that is acknowledged stays so, and no webhook is sent", ": their events stay unacknowledged")
        } else if self.topic.ends_with(topics::DELIVERIES) {
            (
                "a delivered or failed delivery is never set back to a retry, and no webhook is sent",
                ": their deliveries keep the status that the view has",
            )
        } else {
            ("events that the view has stay one row each, and webhooks are sent again", "")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::LogBounds;
    use crate::log_identity::LogIdentity;
    use crate::log_state::mismatch;

    fn known(consumer: &str, partition: i32, next_offset: i64, (start, end): (i64, i64)) -> CheckedPosition {
        let (consumer, topic) = (consumer.to_owned(), "events".to_owned());
        let identity = LogIdentity::default();
        let position = StoredPosition { consumer, topic, partition, next_offset, log_epoch: 1, identity };
        let bounds = LogBounds { start, end };
        let mismatch = mismatch(&position.in_partition(), None, bounds);
        CheckedPosition { position, log: Some(LogState { bounds, topic_id: Some(Uuid::from_u128(7)), mismatch }) }
    }

    fn any(_: &StoredPosition) -> bool {
        true
    }

    fn summary(repairs: &[Repair<'_>]) -> Vec<(i32, Vec<String>, i64)> {
        let consumers =
            |repair: &Repair<'_>| repair.moved.iter().map(|known| known.position.consumer.clone()).collect();
        repairs.iter().map(|repair| (repair.partition, consumers(repair), repair.to)).collect()
    }

    #[test]
    fn after_a_truncation_only_those_move_that_are_outside() {
        let positions = [known("d", 0, 150, (100, 200)), known("m", 0, 50, (100, 200)), known("m", 1, 50, (0, 200))];
        let repairs = plan(&positions, any, RepairMode::ReadAgain);
        assert_eq!(summary(&repairs), [(0, vec!["m".to_owned()], 100)]);
        let lines = repairs[0].lines();
        assert!(lines[0].contains("from 50 to 100; 50 records") && lines[1].contains("stays at 150"), "{lines:?}");
    }

    #[test]
    fn a_new_log_is_new_to_every_consumer() {
        let positions = [known("d", 0, 3, (0, 5)), known("m", 0, 50, (0, 5))];
        let repairs = plan(&positions, |position| position.consumer == "m", RepairMode::ReadAgain);
        assert_eq!(summary(&repairs), [(0, vec!["d".to_owned(), "m".to_owned()], 0)]);
    }

    #[test]
    fn what_a_new_log_means_depends_on_the_topic() {
        let line = |topic: &str| {
            let mut position = known("materializer", 0, 50, (0, 5));
            position.position.topic = format!("prefix.{topic}");
            plan(&[position], any, RepairMode::ReadAgain)[0].lines().remove(0)
        };
        let events = line(topics::EVENTS);
        assert!(events.contains("one row each, and webhooks are sent again") && events.contains("from 50 on"));
        for (topic, expected) in [(topics::ACKS, "their events stay"), (topics::DELIVERIES, "their deliveries keep")] {
            let line = line(topic);
            assert!(
                line.contains(expected) && line.contains("no webhook is sent") && line.contains("from 50"),
                "{line}"
            );
            assert!(!line.contains("sent again"), "{line}");
        }
    }

    #[test]
    fn a_log_that_was_kept_goes_on_where_the_position_is() {
        let positions = [known("d", 0, 3, (1, 5)), known("m", 0, 4, (1, 5))];
        let only = |position: &StoredPosition| position.consumer == "m";
        assert_eq!(
            check(&positions[1], RepairMode::ReadAgain).unwrap_err(),
            Refusal::Inside("m at events[0]".to_owned())
        );
        let mut other = positions;
        let ids = (Uuid::from_u128(1), Uuid::from_u128(7));
        other[1].log.as_mut().unwrap().mismatch = Some(LogMismatch::Recreated(ids.0, ids.1));
        assert_eq!(other[1].state(), "recreated");
        let restarted = plan(&other, only, RepairMode::ReadAgain);
        assert_eq!(summary(&restarted), [(0, vec!["d".to_owned(), "m".to_owned()], 1)]);
        assert_eq!((restarted[0].log, restarted[0].topic_id), (LogChange::NewLog, Some(ids.1)));
        let kept = plan(&other, only, RepairMode::KeepOffset);
        assert_eq!(summary(&kept), [(0, vec!["m".to_owned()], 4)]);
        assert_eq!((kept[0].log, kept[0].topic_id), (LogChange::SameLog, Some(ids.1)), "the new id is accepted");
    }

    #[test]
    fn what_nobody_knows_or_cannot_be_kept_is_refused() {
        let unknown = CheckedPosition { log: None, ..known("m", 0, 4, (0, 0)) };
        assert!(matches!(check(&unknown, RepairMode::ReadAgain), Err(Refusal::Unknown(_))));
        assert!(matches!(check(&known("m", 0, 50, (0, 5)), RepairMode::KeepOffset), Err(Refusal::CannotKeep(_))));
        assert!(plan(&[known("m", 0, 4, (0, 5)), known("m", 1, 4, (0, 5))], any, RepairMode::ReadAgain).is_empty());
    }
}
