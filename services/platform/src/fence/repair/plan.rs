//! What repairing positions does, decided before anything is changed. Pure.

use super::{Log, StoredPosition};
use crate::kafka::bounds::{LogBounds, Outside, outside};

/// A position and its log.
#[derive(Debug, Clone)]
pub struct Known {
    /// As it is stored.
    pub position: StoredPosition,
    /// `None`: the brokers did not tell.
    pub bounds: Option<LogBounds>,
}

impl Known {
    /// How the position lies outside of its log, if it does and that is known.
    pub fn outside(&self) -> Option<Outside> {
        outside(self.position.next_offset, self.bounds.as_ref()?)
    }

    /// One word for it: `ok`, `truncated`, `recreated` or `unknown`.
    pub fn state(&self) -> &'static str {
        match (self.bounds, self.outside()) {
            (None, _) => "unknown",
            (_, None) => "ok",
            (_, Some(Outside::Truncated(..))) => "truncated",
            (_, Some(Outside::Recreated(..))) => "recreated",
        }
    }
}

/// What the operator knows of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Nothing beyond what can be seen.
    AsItIs,
    /// It is another log than the one that the position is of.
    Recreated,
    /// It is the same log.
    Keep,
}

/// What is done to one partition of a topic.
#[derive(Debug)]
pub struct Repair<'a> {
    /// Full topic name.
    pub topic: &'a str,
    /// Partition.
    pub partition: i32,
    /// Positions that are set.
    pub moved: Vec<&'a Known>,
    /// Positions of other consumers, which stay.
    pub stays: Vec<&'a Known>,
    /// Where they are set to.
    pub to: i64,
    /// Whether the log is another one.
    pub log: Log,
}

/// Why a position cannot be repaired.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// Without bounds nothing can be set.
    #[error("{0}: the brokers did not tell where its log begins and ends")]
    Unknown(String),
    /// There is nothing to repair.
    #[error("{0} lies inside of its log; if the topic was made anew all the same, say --recreated")]
    Inside(String),
    /// It cannot go on there.
    #[error("{0} lies outside of its log and cannot be kept")]
    CannotKeep(String),
}

/// What is to be done for the `wanted` positions: nothing for those that are inside, unless the operator knows better.
pub fn plan<'a>(known: &'a [Known], wanted: impl Fn(&StoredPosition) -> bool, how: How) -> Vec<Repair<'a>> {
    let named: Vec<&Known> = known.iter().filter(|known| wanted(&known.position)).collect();
    let mut repairs: Vec<Repair<'a>> = Vec::new();
    for one in named.iter().filter(|one| how != How::AsItIs || one.outside().is_some()) {
        let (topic, partition) = (one.position.topic.as_str(), one.position.partition);
        let Some(bounds) = one.bounds else { continue };
        if repairs.iter().any(|repair| (repair.topic, repair.partition) == (topic, partition)) {
            continue;
        }
        let here = |known: &&&Known| (known.position.topic.as_str(), known.position.partition) == (topic, partition);
        let all: Vec<&Known> = known.iter().collect();
        // Another log is another one for everybody who reads it.
        let is_recreated = |known: &&Known| matches!(known.outside(), Some(Outside::Recreated(..)));
        let is_new_log = how == How::Recreated || (how == How::AsItIs && all.iter().filter(here).any(is_recreated));
        let is_moved =
            |known: &Known| is_new_log || (wanted(&known.position) && (how == How::Keep || known.outside().is_some()));
        let (moved, stays): (Vec<&Known>, Vec<&Known>) =
            all.iter().filter(here).copied().partition(|known| is_moved(known));
        let to = if how == How::Keep { one.position.next_offset } else { bounds.begin };
        let log = if is_new_log { Log::Another } else { Log::Same };
        repairs.push(Repair { topic, partition, moved, stays, to, log });
    }
    repairs
}

/// Whether a position that was named can be repaired at all.
pub fn check(named: &Known, how: How) -> Result<(), Refusal> {
    let StoredPosition { consumer, topic, partition, .. } = &named.position;
    let name = format!("{consumer} at {topic}[{partition}]");
    let Some(bounds) = named.bounds else { return Err(Refusal::Unknown(name)) };
    match how {
        How::AsItIs if named.outside().is_none() => Err(Refusal::Inside(name)),
        How::Keep if !(bounds.begin..=bounds.end).contains(&named.position.next_offset) => {
            Err(Refusal::CannotKeep(name))
        }
        _ => Ok(()),
    }
}

impl Repair<'_> {
    /// What it does and what it gives up, for people.
    pub fn lines(&self) -> Vec<String> {
        let line = |known: &&Known| {
            let (consumer, from) = (&known.position.consumer, known.position.next_offset);
            let skipped = if self.log == Log::Another {
                format!(
                    "the log is another one, and all of it is read: events that it holds already stay one row each, their webhooks are sent again; what the old one held from {from} on and this consumer had not read is given up"
                )
            } else if self.to > from {
                format!("{} records were deleted before this consumer read them and are given up", self.to - from)
            } else {
                "nothing is given up".to_owned()
            };
            format!("{consumer} at {}[{}]: from {from} to {}; {skipped}", self.topic, self.partition, self.to)
        };
        let stays = |known: &&Known| {
            let (consumer, at) = (&known.position.consumer, known.position.next_offset);
            format!("{consumer} at {}[{}]: stays at {at}", self.topic, self.partition)
        };
        self.moved.iter().map(line).chain(self.stays.iter().map(stays)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(consumer: &str, partition: i32, next_offset: i64, (begin, end): (i64, i64)) -> Known {
        let (consumer, topic) = (consumer.to_owned(), "events".to_owned());
        let position = StoredPosition { consumer, topic, partition, next_offset, log_epoch: 1, record_time_ms: None };
        Known { position, bounds: Some(LogBounds { begin, end, first_later: None }) }
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
        let repairs = plan(&positions, any, How::AsItIs);
        assert_eq!(summary(&repairs), [(0, vec!["m".to_owned()], 100)]);
        let lines = repairs[0].lines();
        assert!(lines[0].contains("from 50 to 100; 50 records") && lines[1].contains("stays at 150"), "{lines:?}");
    }

    #[test]
    fn a_new_log_is_new_to_every_consumer_also_to_one_whose_position_lies_inside() {
        let positions = [known("d", 0, 3, (0, 5)), known("m", 0, 50, (0, 5))];
        let repairs = plan(&positions, |position| position.consumer == "m", How::AsItIs);
        assert_eq!(summary(&repairs), [(0, vec!["d".to_owned(), "m".to_owned()], 0)]);
    }

    #[test]
    fn what_the_operator_knows_goes_before_what_can_be_seen() {
        let positions = [known("d", 0, 3, (1, 5)), known("m", 0, 4, (1, 5))];
        let only = |position: &StoredPosition| position.consumer == "m";
        assert_eq!(check(&positions[1], How::AsItIs).unwrap_err(), Refusal::Inside("m at events[0]".to_owned()));
        assert_eq!(summary(&plan(&positions, only, How::Recreated)), [(0, vec!["d".to_owned(), "m".to_owned()], 1)]);
        let mut younger = positions;
        younger[1].bounds = Some(LogBounds { begin: 1, end: 5, first_later: Some(1) });
        assert_eq!(younger[1].state(), "recreated");
        assert_eq!(summary(&plan(&younger, only, How::Keep)), [(0, vec!["m".to_owned()], 4)]);
    }

    #[test]
    fn what_nobody_knows_or_cannot_be_kept_is_refused() {
        let unknown = Known { bounds: None, ..known("m", 0, 4, (0, 0)) };
        assert!(matches!(check(&unknown, How::AsItIs), Err(Refusal::Unknown(_))));
        assert!(matches!(check(&known("m", 0, 50, (0, 5)), How::Keep), Err(Refusal::CannotKeep(_))));
        assert!(plan(&[known("m", 0, 4, (0, 5)), known("m", 1, 4, (0, 5))], any, How::AsItIs).is_empty());
    }
}
