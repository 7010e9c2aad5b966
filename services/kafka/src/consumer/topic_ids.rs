//! Whether a topic was deleted and created again under its readers. librdkafka goes on in the new log without a word, at
//! the offset where it was in the old one.
//!
//! The watch asks once a second. A reading thread asks when records of a partition come after a pause: its fetches fail
//! from the deletion on, and each failure is followed by `fetch.error.backoff.ms` without a fetch. So before the first
//! record of the new log there is a pause, and the thread finds the new id before it hands that record over.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use tracing::debug;
use uuid::Uuid;

use super::assignments::{Assignment, Assignments, Place};
use crate::log_state;

/// Half of `fetch.error.backoff.ms`.
const PAUSE: Duration = Duration::from_millis(50);
/// A controller that does not answer holds claims and records back for no longer than this.
pub(super) const TIMEOUT: Duration = Duration::from_millis(500);
/// How long a reading thread does not ask after there was no answer. The watch asks on.
const SILENCE: Duration = Duration::from_secs(5);

/// The ids of topics as far as they can be had in a short time. What is not known now is not compared now: the watch
/// asks again.
pub(super) fn known<C: ConsumerContext>(client: &BaseConsumer<C>, topics: &[&str]) -> BTreeMap<String, Uuid> {
    log_state::topic_ids(client, topics, TIMEOUT).unwrap_or_else(|error| {
        debug!(%error, "Topic ids are not known now.");
        BTreeMap::new()
    })
}

/// A topic whose id is not the one that its claims are for; `None`: there is none among those of which the id is known.
pub(super) fn recreated(claims: &BTreeMap<Place, Assignment>, ids: &BTreeMap<String, Uuid>) -> Option<Arc<str>> {
    let is_other = |topic: &str, hold: &Assignment| {
        let ids = (hold.identity.topic_id, ids.get(topic));
        !hold.is_stopped && matches!(ids, (Some(before), Some(now)) if before != *now)
    };
    claims.iter().find(|((topic, _), hold)| is_other(topic, hold)).map(|((topic, _), _)| topic.clone())
}

/// Topics that were claimed while their id was not known, and the id.
pub(super) fn learned(claims: &BTreeMap<Place, Assignment>, ids: &BTreeMap<String, Uuid>) -> BTreeMap<Arc<str>, Uuid> {
    let unknown = claims.iter().filter(|(_, hold)| !hold.is_stopped && hold.identity.topic_id.is_none());
    unknown.filter_map(|((topic, _), _)| Some((topic.clone(), *ids.get(&**topic)?))).collect()
}

/// When a reading thread asks.
#[derive(Default)]
pub(super) struct Pauses {
    read_at: HashMap<Place, Instant>,
    silent_until: Option<Instant>,
}

impl Pauses {
    /// Notes that records of these places were read; a topic of those that paused which was created again.
    pub(super) fn end<'a, C: ConsumerContext>(
        &mut self,
        client: &BaseConsumer<C>,
        held: &Assignments,
        places: impl Iterator<Item = (&'a Arc<str>, i32)>,
    ) -> Option<Arc<str>> {
        let topics: Vec<&str> = self.paused(Instant::now(), places).into_iter().collect();
        match log_state::topic_ids(client, &topics, TIMEOUT) {
            Ok(ids) => recreated(&held.all(), &ids),
            Err(error) => {
                debug!(%error, "Topic ids are not known now.");
                self.silent_until = Some(Instant::now() + SILENCE);
                None
            }
        }
    }

    fn paused<'a>(&mut self, now: Instant, places: impl Iterator<Item = (&'a Arc<str>, i32)>) -> BTreeSet<&'a str> {
        let mut paused = BTreeSet::new();
        for (topic, partition) in places {
            let before = self.read_at.insert((topic.clone(), partition), now);
            if before.is_none_or(|at| now.saturating_duration_since(at) >= PAUSE) {
                paused.insert(&**topic);
            }
        }
        if self.silent_until.is_some_and(|until| now < until) { BTreeSet::new() } else { paused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_state::LogIdentity;

    #[test]
    fn only_ids_that_are_known_are_compared() {
        let (before, now) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let claims = |topic_id: Option<Uuid>, is_stopped: bool| {
            let identity = LogIdentity { topic_id, leader_epoch: None };
            BTreeMap::from([(
                (Arc::from("events"), 0),
                Assignment { epoch: 1, identity, read_epoch: None, is_stopped },
            )])
        };
        let ids = BTreeMap::from([("events".to_owned(), now)]);
        assert_eq!(recreated(&claims(Some(before), false), &ids).as_deref(), Some("events"));
        assert_eq!(recreated(&claims(Some(before), true), &ids), None, "a stopped partition is not read");
        assert_eq!(recreated(&claims(Some(now), false), &ids), None);
        assert_eq!(recreated(&claims(Some(before), false), &BTreeMap::new()), None, "no answer");
        assert_eq!(recreated(&claims(None, false), &ids), None, "nothing to compare with");
        assert_eq!(learned(&claims(None, false), &ids), BTreeMap::from([(Arc::from("events"), now)]));
        assert_eq!(learned(&claims(Some(before), false), &ids).len() + learned(&claims(None, true), &ids).len(), 0);
    }

    #[test]
    fn the_first_records_and_those_after_a_pause_are_checked() {
        let (mut pauses, start, topic): (_, _, Arc<str>) = (Pauses::default(), Instant::now(), Arc::from("events"));
        let mut is_asked = |after_ms: u64, partition: i32| {
            let places = [(&topic, partition)].into_iter();
            !pauses.paused(start + Duration::from_millis(after_ms), places).is_empty()
        };
        assert!(is_asked(0, 0), "the first of a partition");
        assert!(!is_asked(10, 0) && !is_asked(50, 0), "records that follow at once");
        assert!(is_asked(50, 1), "the first of another one");
        assert!(is_asked(100, 0) && !is_asked(110, 0), "after a pause");
        pauses.silent_until = Some(start + Duration::from_secs(3));
        assert!(
            pauses.paused(start + Duration::from_secs(2), [(&topic, 0)].into_iter()).is_empty(),
            "no answer lately"
        );
        assert!(!pauses.paused(start + Duration::from_secs(4), [(&topic, 0)].into_iter()).is_empty());
    }
}
