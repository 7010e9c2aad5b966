//! Whether a topic was deleted and created again under its readers. librdkafka goes on in the new log without a word, at
//! the offset where it was in the old one.
//!
//! The watch asks once a second. A reading thread asks when records of a partition come after a pause: its fetches fail
//! from the deletion on, and each failure is followed by `fetch.error.backoff.ms` without a fetch. So before the first
//! record of the new log there is a pause, and the thread finds the new id before it hands that record over.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use tracing::debug;

use super::held::{Held, Place};
use crate::kafka::ffi;

/// Half of `fetch.error.backoff.ms`.
const PAUSE: Duration = Duration::from_millis(50);
/// Brokers that do not answer hold records of others back for no longer than this.
const TIMEOUT: Duration = Duration::from_millis(500);
/// How long nothing is asked after brokers did not answer. The watch asks on.
const SILENCE: Duration = Duration::from_secs(5);

/// A topic of `topics` whose id is not the one that its claims are for; `None`: there is none.
///
/// # Errors
/// When no broker answers.
pub(super) fn recreated<'a, C: ConsumerContext>(
    client: &BaseConsumer<C>,
    held: &Held,
    topics: &BTreeSet<&'a str>,
    timeout: Duration,
) -> Result<Option<&'a str>, KafkaError> {
    if topics.is_empty() {
        return Ok(None);
    }
    let topics: Vec<&str> = topics.iter().copied().collect();
    // A topic that is not there now is not one that was created again.
    let ids = ffi::topic_ids(client, &topics, timeout)?;
    let claims = held.all();
    let is_other = |topic: &&str| {
        claims.iter().filter(|((of, _), hold)| **of == **topic && !hold.is_stopped).any(|(_, hold)| {
            let ids = (hold.identity.topic_id, ids.get(*topic));
            matches!(ids, (Some(before), Some(now)) if before != *now)
        })
    };
    Ok(topics.into_iter().find(is_other))
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
        held: &Held,
        places: impl Iterator<Item = (&'a Arc<str>, i32)>,
    ) -> Option<&'a str> {
        let topics = self.paused(Instant::now(), places);
        match recreated(client, held, &topics, TIMEOUT) {
            Ok(topic) => topic,
            Err(error) => {
                debug!(%error, "Topic ids are not known.");
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
