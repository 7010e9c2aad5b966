//! Stall detection: a partition has lag and no record comes, or its log ends before the next offset to read, which
//! librdkafka reports once and then stops fetching. Pure; `watch` takes the samples.
//!
//! librdkafka has bugs after which it stops fetching a partition, while the member stays in its group and looks
//! healthy. No property prevents all of them, so the watch checks for the symptom.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::partition::TopicPartition;

/// One partition at the time of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// Next offset to read.
    pub(super) next_offset: i64,
    /// End of the readable log, as the brokers report it now; `None`: unknown.
    pub(super) end: Option<i64>,
    /// Time in which records could have come, since the start of the consumer.
    pub(super) polled: Duration,
}

/// A stalled partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stall {
    pub(super) partition: TopicPartition,
    pub(super) next_offset: i64,
    pub(super) end: i64,
    pub(super) waited: Duration,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((topic, partition), seconds) = (&self.partition, self.waited.as_secs_f32());
        let (next_offset, end) = (self.next_offset, self.end);
        if end < next_offset {
            write!(
                f,
                "{topic}[{partition}] is ahead of its log: it is read up to {next_offset}, and has ended at {end} for \
                 {seconds:.0} s"
            )
        } else {
            write!(
                f,
                "{topic}[{partition}] stalled: it is read up to {next_offset}, ends at {end}, and no record came for \
                 {seconds:.0} s"
            )
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Suspect {
    next_offset: i64,
    since: Instant,
    polled: Duration,
}

/// Finds stalls in consecutive samples.
#[derive(Debug)]
pub(super) struct StallDetector {
    stall_after: Duration,
    suspects: BTreeMap<TopicPartition, Suspect>,
    last_check: Option<Instant>,
}

impl StallDetector {
    pub(super) fn new(stall_after: Duration) -> Self {
        Self { stall_after, suspects: BTreeMap::new(), last_check: None }
    }

    /// Checks the samples of all partitions that are read. A partition is stalled if three things hold at each check
    /// for `stall_after`: its next offset does not change, the end of the log is another offset, and records could have
    /// come. A new leader may report an end that is too low for a moment, but never for so long.
    pub(super) fn check(&mut self, now: Instant, samples: &BTreeMap<TopicPartition, Sample>) -> Option<Stall> {
        // After a long time without a check (the process was paused) nothing is known of the time between.
        let is_late = self.last_check.is_some_and(|last| now.saturating_duration_since(last) > self.stall_after / 2);
        self.last_check = Some(now);
        if is_late {
            self.suspects.clear();
        }
        self.suspects.retain(|partition, suspect| {
            samples
                .get(partition)
                .is_some_and(|sample| !sample.is_at_end() && sample.next_offset == suspect.next_offset)
        });
        let mut stall = None;
        for (partition, sample) in samples.iter().filter(|(_, sample)| !sample.is_at_end()) {
            let fresh = Suspect { next_offset: sample.next_offset, since: now, polled: sample.polled };
            let suspect = self.suspects.entry(partition.clone()).or_insert(fresh);
            let waited = now.saturating_duration_since(suspect.since).min(sample.polled.saturating_sub(suspect.polled));
            if waited >= self.stall_after {
                let (partition, next_offset) = (partition.clone(), sample.next_offset);
                let end = sample.end.unwrap_or(next_offset);
                stall.get_or_insert(Stall { partition, next_offset, end, waited });
            }
        }
        stall
    }

    /// The cause of a stall is known: `partition` is reported again only after another `stall_after`.
    pub(super) fn forget(&mut self, partition: &TopicPartition) {
        self.suspects.remove(partition);
    }
}

impl Sample {
    /// The next offset is the end of the log, or the end is unknown.
    fn is_at_end(&self) -> bool {
        self.end.is_none_or(|end| end == self.next_offset)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const STALL_AFTER: Duration = Duration::from_secs(30);
    const SECOND: Duration = Duration::from_secs(1);

    fn partition(partition: i32) -> TopicPartition {
        (Arc::from("events"), partition)
    }

    /// Checks one sample a second. The second of the first stall.
    fn first_stall(samples: impl IntoIterator<Item = Sample>) -> Option<u32> {
        let (mut detector, start) = (StallDetector::new(STALL_AFTER), Instant::now());
        samples.into_iter().zip(0..).find_map(|(sample, at)| {
            let stall = detector.check(start + SECOND * at, &BTreeMap::from([(partition(0), sample)]))?;
            assert_eq!((stall.partition, stall.next_offset, stall.end), (partition(0), NEXT_OFFSET, END));
            Some(at)
        })
    }

    const NEXT_OFFSET: i64 = 5;
    const END: i64 = 9;

    fn behind(at: u32) -> Sample {
        Sample { next_offset: NEXT_OFFSET, end: Some(END), polled: SECOND * at }
    }

    #[test]
    fn lag_without_records_stalls_after_the_time_and_not_before() {
        assert_eq!(first_stall((0..100).map(behind)), Some(30));
    }

    #[test]
    fn a_partition_at_its_end_or_with_unknown_end_never_stalls() {
        assert_eq!(first_stall((0..100).map(|at| Sample { end: Some(5), ..behind(at) })), None);
        assert_eq!(first_stall((0..100).map(|at| Sample { end: None, ..behind(at) })), None);
        // Brokers that are away for a time: the time counts from their return.
        let away_until = |until: u32| {
            (0..100).map(move |at| if at < until { Sample { end: None, ..behind(at) } } else { behind(at) })
        };
        assert_eq!(first_stall(away_until(50)), Some(80));
        assert_eq!(
            first_stall((0..100).map(|at| if at % 29 == 0 { Sample { end: None, ..behind(at) } } else { behind(at) })),
            None
        );
    }

    #[test]
    fn a_partition_ahead_of_its_log_stalls() {
        let ahead = |at: u32| (partition(0), Sample { end: Some(3), ..behind(at) });
        let first = |sample_at: &dyn Fn(u32) -> (TopicPartition, Sample)| {
            let (mut detector, start) = (StallDetector::new(STALL_AFTER), Instant::now());
            (0..100).find_map(|at| {
                let stall = detector.check(start + SECOND * at, &BTreeMap::from([sample_at(at)]));
                stall.map(|stall| (at, stall))
            })
        };
        let (at, stall) = first(&ahead).unwrap();
        assert_eq!((at, stall.next_offset, stall.end), (30, 5, 3));
        assert!(stall.to_string().contains("is ahead of its log"), "{stall}");
        // For a moment, a new leader does not know the end of its readable log.
        assert_eq!(
            first(&|at| if at % 20 == 19 { (partition(0), Sample { end: Some(5), ..behind(at) }) } else { ahead(at) }),
            None
        );
    }

    #[test]
    fn two_stalled_partitions_are_reported_one_after_the_other() {
        let (mut detector, start) = (StallDetector::new(STALL_AFTER), Instant::now());
        let mut reported = Vec::new();
        for at in 0..=70 {
            let samples = BTreeMap::from([0, 1].map(|number| (partition(number), behind(at))));
            if let Some(stall) = detector.check(start + SECOND * at, &samples) {
                detector.forget(&stall.partition);
                reported.push((at, stall.partition.1));
            }
        }
        assert_eq!(reported, [(30, 0), (31, 1), (61, 0), (62, 1)]);
    }

    #[test]
    fn time_in_which_the_owner_is_busy_does_not_count() {
        assert_eq!(first_stall((0..100).map(|at| Sample { polled: Duration::ZERO, ..behind(at) })), None);
        assert_eq!(first_stall((0..100).map(|at| Sample { polled: SECOND * at / 2, ..behind(at) })), Some(60));
    }

    #[test]
    fn a_pause_of_the_process_does_not_count() {
        let (mut detector, start) = (StallDetector::new(STALL_AFTER), Instant::now());
        let mut check = |at: u32| detector.check(start + SECOND * at, &BTreeMap::from([(partition(0), behind(at))]));
        assert_eq!(check(0), None);
        assert_eq!(check(3600), None);
        assert!((3601..3630).all(|at| check(at).is_none()));
        assert!(check(3630).is_some());
    }

    proptest! {
        #[test]
        fn only_the_whole_time_without_progress_counts(
            steps in prop::collection::vec((0_i64..2, prop::option::of(-2_i64..3), 0_u32..3), 1..200),
        ) {
            let (mut detector, start) = (StallDetector::new(SECOND * 10), Instant::now());
            let (mut next_offset, mut polled, mut unmoved_for) = (0, Duration::ZERO, 0);
            for (at, (moved, lag, poll)) in (0..).zip(steps) {
                next_offset += moved;
                polled += SECOND * poll.min(1);
                let sample = Sample { next_offset, end: lag.map(|lag| next_offset + lag), polled };
                unmoved_for = if moved > 0 || sample.is_at_end() { 0 } else { unmoved_for + 1 };
                let stall = detector.check(start + SECOND * at, &BTreeMap::from([(partition(0), sample)]));
                prop_assert!(stall.is_none() || unmoved_for >= 10, "after {unmoved_for} checks");
            }
        }

        #[test]
        fn a_stall_is_found_whatever_the_other_partitions_do(others in prop::collection::vec(0_i64..3, 31..60)) {
            let (mut detector, start) = (StallDetector::new(STALL_AFTER), Instant::now());
            let mut next_offset = 0;
            let found = (0..).zip(others).any(|(at, moved)| {
                next_offset += moved + 1;
                let other = Sample { next_offset, ..Sample { end: Some(1000), ..behind(at) } };
                let samples = BTreeMap::from([(partition(0), other), (partition(1), behind(at))]);
                detector.check(start + SECOND * at, &samples).is_some_and(|stall| stall.partition == partition(1))
            });
            prop_assert!(found);
        }
    }
}
