//! Detects that a topic was deleted and created again while it is read. librdkafka silently continues in the new log,
//! at its offset in the old one.
//!
//! The watch queries the topic ids once a second. A reading thread queries them when records of a partition come after
//! a pause. From the deletion on its fetches fail, and `fetch.error.backoff.ms` passes after each failure without a
//! fetch. So there is a pause before the first record of the new log, and the thread finds the new id before it sends
//! that record to the owner.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use tracing::debug;
use uuid::Uuid;

use super::assignments::{Assignment, Assignments};
use crate::log_state;
use crate::partition::TopicPartition;

/// Half of `fetch.error.backoff.ms`.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest time that claims and records wait for a controller that does not answer.
pub(super) const TIMEOUT: Duration = Duration::from_millis(500);
/// After a query without an answer, a reading thread does not query for this time. The watch continues to.
const QUERY_BACKOFF: Duration = Duration::from_secs(5);

/// The ids of topics, as far as the controller answers in a short time. The watch compares unknown ids later.
pub(super) fn query<C: ConsumerContext>(client: &BaseConsumer<C>, topics: &[&str]) -> BTreeMap<String, Uuid> {
    log_state::topic_ids(client.client(), topics, TIMEOUT).unwrap_or_else(|error| {
        debug!(%error, "Topic ids are unknown; querying them again.");
        BTreeMap::new()
    })
}

/// A topic whose id is not the one of its claims; `None`: no known id differs.
pub(super) fn recreated(
    claims: &BTreeMap<TopicPartition, Assignment>,
    ids: &BTreeMap<String, Uuid>,
) -> Option<Arc<str>> {
    let is_other = |topic: &str, assignment: &Assignment| {
        let ids = (assignment.identity.topic_id, ids.get(topic));
        !assignment.is_stopped && matches!(ids, (Some(before), Some(now)) if before != *now)
    };
    claims.iter().find(|((topic, _), assignment)| is_other(topic, assignment)).map(|((topic, _), _)| topic.clone())
}

/// Topics that were claimed without their id, and the id.
pub(super) fn new_ids(
    claims: &BTreeMap<TopicPartition, Assignment>,
    ids: &BTreeMap<String, Uuid>,
) -> BTreeMap<Arc<str>, Uuid> {
    let unknown =
        claims.iter().filter(|(_, assignment)| !assignment.is_stopped && assignment.identity.topic_id.is_none());
    unknown.filter_map(|((topic, _), _)| Some((topic.clone(), *ids.get(&**topic)?))).collect()
}

/// Pauses between the records of each partition, after which a reading thread queries the topic ids.
#[derive(Default)]
pub(super) struct Pauses {
    read_at: HashMap<TopicPartition, Instant>,
    no_query_until: Option<Instant>,
}

impl Pauses {
    /// Notes that records of these partitions were read. Returns a topic that was created again, among those whose
    /// records came after a pause.
    pub(super) fn find_recreated<'a, C: ConsumerContext>(
        &mut self,
        client: &BaseConsumer<C>,
        assignments: &Assignments,
        partitions: impl Iterator<Item = (&'a Arc<str>, i32)>,
    ) -> Option<Arc<str>> {
        let topics: Vec<&str> = self.paused(Instant::now(), partitions).into_iter().collect();
        match log_state::topic_ids(client.client(), &topics, TIMEOUT) {
            // As after most polls: no partition was paused. The claims are not copied.
            Ok(ids) if ids.is_empty() => None,
            Ok(ids) => recreated(&assignments.all(), &ids),
            Err(error) => {
                debug!(%error, "Topic ids are unknown; the watch queries them again.");
                self.no_query_until = Some(Instant::now() + QUERY_BACKOFF);
                None
            }
        }
    }

    fn paused<'a>(&mut self, now: Instant, partitions: impl Iterator<Item = (&'a Arc<str>, i32)>) -> BTreeSet<&'a str> {
        let mut paused = BTreeSet::new();
        for (topic, partition) in partitions {
            let before = self.read_at.insert((topic.clone(), partition), now);
            if before.is_none_or(|at| now.saturating_duration_since(at) >= PAUSE) {
                paused.insert(&**topic);
            }
        }
        if self.no_query_until.is_some_and(|until| now < until) { BTreeSet::new() } else { paused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_identity::LogIdentity;

    #[test]
    fn only_known_ids_are_compared() {
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
        assert_eq!(new_ids(&claims(None, false), &ids), BTreeMap::from([(Arc::from("events"), now)]));
        assert_eq!(new_ids(&claims(Some(before), false), &ids).len() + new_ids(&claims(None, true), &ids).len(), 0);
    }

    #[test]
    fn the_ids_are_queried_at_first_records_and_after_a_pause() {
        let (mut pauses, start, topic): (_, _, Arc<str>) = (Pauses::default(), Instant::now(), Arc::from("events"));
        let mut is_queried = |after_ms: u64, partition: i32| {
            let partitions = [(&topic, partition)].into_iter();
            !pauses.paused(start + Duration::from_millis(after_ms), partitions).is_empty()
        };
        assert!(is_queried(0, 0), "the first of a partition");
        assert!(!is_queried(10, 0) && !is_queried(50, 0), "records that follow at once");
        assert!(is_queried(50, 1), "the first of another one");
        assert!(is_queried(100, 0) && !is_queried(110, 0), "after a pause");
        pauses.no_query_until = Some(start + Duration::from_secs(3));
        assert!(
            pauses.paused(start + Duration::from_secs(2), [(&topic, 0)].into_iter()).is_empty(),
            "no answer lately"
        );
        assert!(!pauses.paused(start + Duration::from_secs(4), [(&topic, 0)].into_iter()).is_empty());
    }
}
