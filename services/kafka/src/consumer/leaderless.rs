//! Places that the group gave, and of which the brokers did not tell where the log begins and ends: there is no leader,
//! or it does not answer. They are neither claimed nor read. The watch asks for them; the group client claims them when
//! there is an answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::assignments::Place;

/// Each place, and whether the brokers answered for it since it was tried last. Cloning shares them.
#[derive(Clone, Default)]
pub(super) struct Leaderless(Arc<Mutex<BTreeMap<Place, bool>>>);

impl Leaderless {
    pub(super) fn add(&self, place: Place) {
        self.lock().insert(place, false);
    }

    pub(super) fn remove(&self, place: &Place) {
        self.lock().remove(place);
    }

    pub(super) fn forget(&self, partitions: &[i32]) {
        self.lock().retain(|(_, partition), _| !partitions.contains(partition));
    }

    /// All, by topic.
    pub(super) fn all(&self) -> BTreeMap<Arc<str>, Vec<i32>> {
        by_topic(self.lock().keys())
    }

    /// Notes that the brokers answer for `place`, if it is still one of these.
    pub(super) fn answers(&self, place: &Place) {
        if let Some(answers) = self.lock().get_mut(place) {
            *answers = true;
        }
    }

    /// Those that may be tried, by topic. Each is given once per answer: who tries in vain waits for the next.
    pub(super) fn take_answering(&self) -> BTreeMap<Arc<str>, Vec<i32>> {
        let mut places = self.lock();
        by_topic(places.iter_mut().filter_map(|(place, answers)| std::mem::take(answers).then_some(place)))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn by_topic<'a>(places: impl Iterator<Item = &'a Place>) -> BTreeMap<Arc<str>, Vec<i32>> {
    let mut topics: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in places {
        topics.entry(topic.clone()).or_default().push(*partition);
    }
    topics
}
