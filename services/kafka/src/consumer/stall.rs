//! When a consumer has stalled: the log goes on, and nothing of it comes; or it ends before the place where reading
//! stands, which librdkafka says once and then fetches no more. Pure; looking is `watch`'s.
//!
//! librdkafka has bugs that end in a partition that is fetched no more, while the member stays in its group and looks
//! well. No property prevents all of them, so the one thing that shows is watched for.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::assignments::Place;

/// What is seen of one place at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sight {
    /// Next offset that is read.
    pub(super) reached: i64,
    /// Where the readable log ends, as the brokers said at this look; `None`: they did not.
    pub(super) end: Option<i64>,
    /// Time in which records could have come, since the consumer was started.
    pub(super) polled: Duration,
}

/// A place that has stalled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stall {
    pub(super) place: Place,
    pub(super) reached: i64,
    pub(super) end: i64,
    pub(super) waited: Duration,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((topic, partition), seconds) = (&self.place, self.waited.as_secs_f32());
        let (reached, end) = (self.reached, self.end);
        if end < reached {
            write!(
                f,
                "{topic}[{partition}] stands behind its log: it is read up to {reached}, and has ended at {end} for {seconds:.0} s"
            )
        } else {
            write!(
                f,
                "{topic}[{partition}] stalled: it is read up to {reached}, ends at {end}, and nothing came for {seconds:.0} s"
            )
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Suspect {
    reached: i64,
    since: Instant,
    polled: Duration,
}

/// Remembers what was seen before.
#[derive(Debug)]
pub(super) struct StallWatch {
    patience: Duration,
    suspects: BTreeMap<Place, Suspect>,
    last_look: Option<Instant>,
}

impl StallWatch {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, suspects: BTreeMap::new(), last_look: None }
    }

    /// Takes a look at every place that is read. A place is stalled when at each look of a whole patience it stood
    /// where it stands, the brokers had more for it or less than it has read, and for so long records could have come.
    /// A new leader may tell an end that is too low for a moment, never for a patience.
    pub(super) fn look(&mut self, now: Instant, sights: &BTreeMap<Place, Sight>) -> Option<Stall> {
        // Who has not looked for a while (a process that was paused) knows nothing of the time between.
        let is_late = self.last_look.is_some_and(|last| now.saturating_duration_since(last) > self.patience / 2);
        self.last_look = Some(now);
        if is_late {
            self.suspects.clear();
        }
        self.suspects.retain(|place, suspect| {
            sights.get(place).is_some_and(|sight| sight.is_off() && sight.reached == suspect.reached)
        });
        let mut stall = None;
        for (place, sight) in sights.iter().filter(|(_, sight)| sight.is_off()) {
            let fresh = Suspect { reached: sight.reached, since: now, polled: sight.polled };
            let suspect = self.suspects.entry(place.clone()).or_insert(fresh);
            let waited = now.saturating_duration_since(suspect.since).min(sight.polled.saturating_sub(suspect.polled));
            if waited >= self.patience {
                let end = sight.end.unwrap_or(sight.reached);
                stall.get_or_insert(Stall { place: place.clone(), reached: sight.reached, end, waited });
            }
        }
        stall
    }

    /// What holds `place` up is known: it stalls only after another patience.
    pub(super) fn forget(&mut self, place: &Place) {
        self.suspects.remove(place);
    }
}

impl Sight {
    /// Stands elsewhere than at the end.
    fn is_off(&self) -> bool {
        self.end.is_some_and(|end| end != self.reached)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);
    const SECOND: Duration = Duration::from_secs(1);

    fn place(partition: i32) -> Place {
        (Arc::from("events"), partition)
    }

    /// Looks once a second; what was seen is given per second. The second of the first stall.
    fn first_stall(seconds: impl IntoIterator<Item = Sight>) -> Option<u32> {
        let (mut watch, start) = (StallWatch::new(PATIENCE), Instant::now());
        let sights = seconds.into_iter().zip(0..);
        sights.map(|(sight, at)| (watch.look(start + SECOND * at, &BTreeMap::from([(place(0), sight)])), at)).find_map(
            |(stall, at)| {
                stall.map(|stall| {
                    assert_eq!((stall.place, stall.reached, Some(stall.end)), (place(0), sight_reached(), sight_end()));
                    at
                })
            },
        )
    }

    fn sight_reached() -> i64 {
        5
    }

    fn sight_end() -> Option<i64> {
        Some(9)
    }

    fn behind(at: u32) -> Sight {
        Sight { reached: sight_reached(), end: sight_end(), polled: SECOND * at }
    }

    #[test]
    fn a_place_that_stands_while_there_is_more_stalls_after_the_patience_and_not_before() {
        assert_eq!(first_stall((0..100).map(behind)), Some(30));
    }

    #[test]
    fn a_place_at_its_end_or_whose_end_nobody_tells_never_stalls() {
        assert_eq!(first_stall((0..100).map(|at| Sight { end: Some(5), ..behind(at) })), None);
        assert_eq!(first_stall((0..100).map(|at| Sight { end: None, ..behind(at) })), None);
        // Brokers that come and go: the time counts from when they came last.
        let away_until = |until: u32| {
            (0..100).map(move |at| if at < until { Sight { end: None, ..behind(at) } } else { behind(at) })
        };
        assert_eq!(first_stall(away_until(50)), Some(80));
        assert_eq!(
            first_stall((0..100).map(|at| if at % 29 == 0 { Sight { end: None, ..behind(at) } } else { behind(at) })),
            None
        );
    }

    #[test]
    fn a_place_behind_the_end_of_its_log_stalls_after_the_patience_unless_the_log_catches_up() {
        let lost = |at: u32| (place(0), Sight { end: Some(3), ..behind(at) });
        let first = |seen: &dyn Fn(u32) -> (Place, Sight)| {
            let (mut watch, start) = (StallWatch::new(PATIENCE), Instant::now());
            (0..100)
                .find_map(|at| watch.look(start + SECOND * at, &BTreeMap::from([seen(at)])).map(|stall| (at, stall)))
        };
        let (at, stall) = first(&lost).unwrap();
        assert_eq!((at, stall.reached, stall.end), (30, 5, 3));
        assert!(stall.to_string().contains("stands behind its log"), "{stall}");
        // A leader that is new does not know for a moment how far its log may be read.
        assert_eq!(
            first(&|at| if at % 20 == 19 { (place(0), Sight { end: Some(5), ..behind(at) }) } else { lost(at) }),
            None
        );
    }

    #[test]
    fn of_two_places_that_stand_each_is_told_when_the_other_is_forgotten() {
        let (mut watch, start) = (StallWatch::new(PATIENCE), Instant::now());
        let mut reported = Vec::new();
        for at in 0..=70 {
            let sights = BTreeMap::from([0, 1].map(|partition| (place(partition), behind(at))));
            if let Some(stall) = watch.look(start + SECOND * at, &sights) {
                watch.forget(&stall.place);
                reported.push((at, stall.place.1));
            }
        }
        assert_eq!(reported, [(30, 0), (31, 1), (61, 0), (62, 1)]);
    }

    #[test]
    fn time_in_which_the_owner_held_back_does_not_count() {
        assert_eq!(first_stall((0..100).map(|at| Sight { polled: Duration::ZERO, ..behind(at) })), None);
        assert_eq!(first_stall((0..100).map(|at| Sight { polled: SECOND * at / 2, ..behind(at) })), Some(60));
    }

    #[test]
    fn a_pause_of_the_process_does_not_count() {
        let (mut watch, start) = (StallWatch::new(PATIENCE), Instant::now());
        let look = |watch: &mut StallWatch, at: u32| {
            watch.look(start + SECOND * at, &BTreeMap::from([(place(0), behind(at))]))
        };
        assert_eq!(look(&mut watch, 0), None);
        assert_eq!(look(&mut watch, 3600), None);
        assert!((3601..3630).all(|at| look(&mut watch, at).is_none()));
        assert!(look(&mut watch, 3630).is_some());
    }

    proptest! {
        #[test]
        fn only_a_whole_patience_of_standing_still_counts(steps in prop::collection::vec((0_i64..2, prop::option::of(-2_i64..3), 0_u32..3), 1..200)) {
            let (mut watch, start) = (StallWatch::new(SECOND * 10), Instant::now());
            let (mut reached, mut polled, mut stood_for) = (0, Duration::ZERO, 0);
            for (at, (moved, lag, poll)) in (0..).zip(steps) {
                reached += moved;
                polled += SECOND * poll.min(1);
                let sight = Sight { reached, end: lag.map(|lag| reached + lag), polled };
                stood_for = if moved > 0 || !sight.is_off() { 0 } else { stood_for + 1 };
                let stall = watch.look(start + SECOND * at, &BTreeMap::from([(place(0), sight)]));
                prop_assert!(stall.is_none() || stood_for >= 10, "after {stood_for} looks");
            }
        }

        #[test]
        fn a_place_that_stands_is_found_whatever_the_others_do(others in prop::collection::vec(0_i64..3, 31..60)) {
            let (mut watch, start) = (StallWatch::new(PATIENCE), Instant::now());
            let mut reached = 0;
            let found = (0..).zip(others).any(|(at, moved)| {
                reached += moved + 1;
                let other = Sight { reached, ..Sight { end: Some(1000), ..behind(at) } };
                let sights = BTreeMap::from([(place(0), other), (place(1), behind(at))]);
                watch.look(start + SECOND * at, &sights).is_some_and(|stall| stall.place == place(1))
            });
            prop_assert!(found);
        }
    }
}
