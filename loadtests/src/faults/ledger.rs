//! What the suite sent, and what it was told: every request with its outcome, every acknowledgement, and what the
//! readers saw. Judging it is `check`'s business.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use uuid::Uuid;

/// What a request, or a record written to Kafka, came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A success code, or Kafka's confirmation; with the id, unless only the log tells it.
    Accepted {
        /// The event's id.
        id: Option<Uuid>,
        /// Whether it was answered from what was there before: then nothing was written for it.
        replayed: bool,
    },
    /// Surely not stored.
    Refused,
    /// May have been stored: once, or not at all.
    Unknown,
}

/// One request, or one record written natively. A repeat has the tag of what it repeats.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Index of the organization.
    pub tenant: usize,
    /// Who sent it. Each sender has one request under way at a time, and one ordering key.
    pub sender: usize,
    /// Names the event in its payload.
    pub tag: String,
    /// When it was begun.
    pub begun: Instant,
    /// When the outcome was known.
    pub ended: Instant,
    /// What it came to.
    pub outcome: Outcome,
}

/// What is known of an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// Confirmed: it holds from then on.
    Confirmed,
    /// Sent, without a confirmation: it may hold or not.
    Unknown,
}

/// One event as a reader was shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its id.
    pub id: Uuid,
    /// The tag in its payload.
    pub tag: String,
    /// The organization in its payload.
    pub owner: Uuid,
    /// Whether it was acknowledged then.
    pub acknowledged: bool,
    /// How its deliveries stood then, in one word.
    pub delivery_status: String,
}

/// Everything of one round.
#[derive(Default)]
pub struct Ledger {
    sent: Mutex<Vec<Sent>>,
    acks: Mutex<HashMap<(usize, Uuid), Ack>>,
    /// When the youngest of the confirmed acknowledgements was begun.
    confirmed: Mutex<Option<Instant>>,
    seen: Mutex<HashMap<usize, Vec<Shown>>>,
    complaints: Mutex<Vec<String>>,
}

impl Ledger {
    /// Notes an outcome.
    pub fn note(&self, sent: Sent) {
        lock(&self.sent).push(sent);
    }

    /// Notes that an acknowledgement was sent, and when that was begun; a confirmation replaces what was not known
    /// before.
    pub fn note_ack(&self, tenant: usize, id: Uuid, ack: Ack, begun: Instant) {
        if ack == Ack::Confirmed {
            let mut confirmed = lock(&self.confirmed);
            *confirmed = (*confirmed).max(Some(begun));
        }
        let mut acks = lock(&self.acks);
        let known = acks.entry((tenant, id)).or_insert(ack);
        if ack == Ack::Confirmed {
            *known = ack;
        }
    }

    /// Notes what the tail of an inbox showed, in its order.
    pub fn note_seen(&self, tenant: usize, shown: impl IntoIterator<Item = Shown>) {
        lock(&self.seen).entry(tenant).or_default().extend(shown);
    }

    /// Notes an answer that must not be.
    pub fn complain(&self, about: String) {
        lock(&self.complaints).push(about);
    }

    /// All that was sent, in the order of its outcomes.
    pub fn sent(&self) -> Vec<Sent> {
        lock(&self.sent).clone()
    }

    /// All acknowledgements.
    pub fn acks(&self) -> HashMap<(usize, Uuid), Ack> {
        lock(&self.acks).clone()
    }

    /// What the tail of an organization's inbox showed.
    pub fn seen(&self, tenant: usize) -> Vec<Shown> {
        lock(&self.seen).get(&tenant).cloned().unwrap_or_default()
    }

    /// Answers that must not be.
    pub fn complaints(&self) -> Vec<String> {
        lock(&self.complaints).clone()
    }

    /// Requests that ended, accepted ones, unknown ones.
    pub fn counts(&self) -> Counts {
        let sent = lock(&self.sent);
        let of = |wanted: fn(&Outcome) -> bool| sent.iter().filter(|sent| wanted(&sent.outcome)).count();
        Counts {
            accepted: of(|outcome| matches!(outcome, Outcome::Accepted { .. })),
            refused: of(|outcome| *outcome == Outcome::Refused),
            unknown: of(|outcome| *outcome == Outcome::Unknown),
        }
    }

    /// Senders of whom something was accepted for the first time that they began then or later.
    pub fn taken_since(&self, since: Instant) -> HashSet<usize> {
        let sent = lock(&self.sent);
        let mut known = HashSet::new();
        let mut taken = HashSet::new();
        for sent in sent.iter() {
            let Outcome::Accepted { replayed, .. } = sent.outcome else { continue };
            // A repeat may be answered from memory, and need not say so.
            if known.insert(&sent.tag) && !replayed && sent.begun >= since {
                taken.insert(sent.sender);
            }
        }
        taken
    }

    /// Whether an acknowledgement was confirmed that was begun then or later.
    pub fn confirmed_since(&self, since: Instant) -> bool {
        lock(&self.confirmed).is_some_and(|begun| begun >= since)
    }

    /// The tags that were accepted so far, each with its organization.
    pub fn accepted_tags(&self) -> Vec<(usize, String)> {
        let sent = lock(&self.sent);
        let accepted = sent.iter().filter(|sent| matches!(sent.outcome, Outcome::Accepted { .. }));
        accepted.map(|sent| (sent.tenant, sent.tag.clone())).collect()
    }
}

/// How many requests came to what.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Success codes and confirmations.
    pub accepted: usize,
    /// Surely not stored.
    pub refused: usize,
    /// May have been stored.
    pub unknown: usize,
}

/// A poisoned lock has lost nothing here: what was noted before is whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_what_was_begun_since_and_is_new_counts_as_taken() {
        let ledger = Ledger::default();
        let before = Instant::now();
        let since = before + Duration::from_secs(1);
        let note = |sender: usize, tag: &str, begun, outcome| {
            ledger.note(Sent { tenant: 0, sender, tag: tag.to_owned(), begun, ended: since, outcome });
        };
        let accepted = |replayed| Outcome::Accepted { id: None, replayed };
        note(1, "a", before, accepted(false));
        note(1, "a", since, accepted(false));
        note(2, "b", since, accepted(true));
        note(3, "c", since, Outcome::Unknown);
        assert!(ledger.taken_since(since).is_empty());
        note(3, "c", since, accepted(false));
        assert_eq!(ledger.taken_since(since), HashSet::from([3]));
        ledger.note_ack(0, Uuid::nil(), Ack::Confirmed, before);
        ledger.note_ack(0, Uuid::nil(), Ack::Unknown, since);
        assert!(!ledger.confirmed_since(since));
        ledger.note_ack(0, Uuid::nil(), Ack::Confirmed, since);
        // One that is confirmed late was begun before, and takes nothing back.
        ledger.note_ack(0, Uuid::nil(), Ack::Confirmed, before);
        assert!(ledger.confirmed_since(since));
    }
}
