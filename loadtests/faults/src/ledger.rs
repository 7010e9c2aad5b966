//! What the suite sent and got back: every request with its outcome, every acknowledgement, and what the tails showed.
//!
//! The rules for it are in `check`.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Instant;

use loadkit::lock;
use uuid::Uuid;

/// The outcome of a request, or of a record written to Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SendOutcome {
    /// A success code, or the confirmation of Kafka. The id is missing if only the log has it.
    Accepted {
        id: Option<Uuid>,
        /// Whether the answer came from an earlier request, and nothing was written for this one.
        replayed: bool,
    },
    Refused,
    /// Stored once or not at all.
    Unknown,
}

/// A request, or a record written natively. A repetition has the tag of the original.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// Index of the organization.
    pub tenant: usize,
    /// Number of the sender. Each sender has one request in flight and one ordering key.
    pub sender: usize,
    /// Identifies the event in its payload.
    pub tag: String,
    /// When the request was started.
    pub started: Instant,
    /// When the outcome was received.
    pub finished: Instant,
    pub outcome: SendOutcome,
}

/// The state of an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckState {
    /// Confirmed: it must hold.
    Confirmed,
    /// Sent without a confirmation: it may hold.
    Unknown,
}

/// An event as the inbox shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShownEvent {
    pub id: Uuid,
    /// The tag in its payload.
    pub tag: String,
    /// The organization in its payload.
    pub org: Uuid,
    /// Whether it is acknowledged.
    pub acknowledged: bool,
    /// Status of its deliveries.
    pub delivery_status: String,
}

/// Everything that was recorded in one round.
#[derive(Default)]
pub(crate) struct Ledger {
    sent: Mutex<Vec<Sent>>,
    acks: Mutex<HashMap<(usize, Uuid), AckState>>,
    /// Start of the latest acknowledgement that was confirmed.
    last_confirmed: Mutex<Option<Instant>>,
    tails: Mutex<HashMap<usize, Vec<ShownEvent>>>,
    unexpected_answers: Mutex<Vec<String>>,
}

impl Ledger {
    pub(crate) fn record(&self, sent: Sent) {
        lock(&self.sent).push(sent);
    }

    /// Records an acknowledgement that was started then. A confirmation replaces an unknown state.
    pub(crate) fn record_ack(&self, tenant: usize, id: Uuid, ack: AckState, started: Instant) {
        if ack == AckState::Confirmed {
            let mut last = lock(&self.last_confirmed);
            *last = (*last).max(Some(started));
        }
        let mut acks = lock(&self.acks);
        let stored = acks.entry((tenant, id)).or_insert(ack);
        if ack == AckState::Confirmed {
            *stored = ack;
        }
    }

    /// Records what the tail of an inbox showed, in its order.
    pub(crate) fn record_tail(&self, tenant: usize, shown: impl IntoIterator<Item = ShownEvent>) {
        lock(&self.tails).entry(tenant).or_default().extend(shown);
    }

    /// Records an answer that the API must not give, as a sentence.
    pub(crate) fn record_unexpected_answer(&self, message: String) {
        lock(&self.unexpected_answers).push(message);
    }

    /// All requests, in the order of their outcomes.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        lock(&self.sent).clone()
    }

    pub(crate) fn acks(&self) -> HashMap<(usize, Uuid), AckState> {
        lock(&self.acks).clone()
    }

    /// What the tail of an organization's inbox showed.
    pub(crate) fn tail(&self, tenant: usize) -> Vec<ShownEvent> {
        lock(&self.tails).get(&tenant).cloned().unwrap_or_default()
    }

    /// Answers that the API must not give.
    pub(crate) fn unexpected_answers(&self) -> Vec<String> {
        lock(&self.unexpected_answers).clone()
    }

    /// Number of requests by outcome.
    pub(crate) fn counts(&self) -> SendCounts {
        let sent = lock(&self.sent);
        let of = |wanted: fn(&SendOutcome) -> bool| sent.iter().filter(|sent| wanted(&sent.outcome)).count();
        SendCounts {
            accepted: of(|outcome| matches!(outcome, SendOutcome::Accepted { .. })),
            refused: of(|outcome| *outcome == SendOutcome::Refused),
            unknown: of(|outcome| *outcome == SendOutcome::Unknown),
        }
    }

    /// The senders that started a request after `since` whose event was accepted for the first time.
    pub(crate) fn senders_accepted_since(&self, since: Instant) -> HashSet<usize> {
        let sent = lock(&self.sent);
        let mut seen = HashSet::new();
        let mut accepted = HashSet::new();
        for sent in sent.iter() {
            let SendOutcome::Accepted { replayed, .. } = sent.outcome else { continue };
            // A repetition may be answered from a cache, and need not say so.
            if seen.insert(&sent.tag) && !replayed && sent.started >= since {
                accepted.insert(sent.sender);
            }
        }
        accepted
    }

    /// Whether an acknowledgement that was started after `since` was confirmed.
    pub(crate) fn ack_confirmed_since(&self, since: Instant) -> bool {
        lock(&self.last_confirmed).is_some_and(|started| started >= since)
    }

    /// The accepted tags, each with the index of its organization.
    pub(crate) fn accepted_tags(&self) -> Vec<(usize, String)> {
        let sent = lock(&self.sent);
        let accepted = sent.iter().filter(|sent| matches!(sent.outcome, SendOutcome::Accepted { .. }));
        accepted.map(|sent| (sent.tenant, sent.tag.clone())).collect()
    }
}

/// Number of requests by outcome.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct SendCounts {
    /// Success codes and confirmations.
    pub accepted: usize,
    pub refused: usize,
    /// Stored once or not at all.
    pub unknown: usize,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_new_requests_started_since_count_as_accepted() {
        let ledger = Ledger::default();
        let before = Instant::now();
        let since = before + Duration::from_secs(1);
        let record = |sender: usize, tag: &str, started, outcome| {
            ledger.record(Sent { tenant: 0, sender, tag: tag.to_owned(), started, finished: since, outcome });
        };
        let accepted = |replayed| SendOutcome::Accepted { id: None, replayed };
        record(1, "a", before, accepted(false));
        record(1, "a", since, accepted(false));
        record(2, "b", since, accepted(true));
        record(3, "c", since, SendOutcome::Unknown);
        assert!(ledger.senders_accepted_since(since).is_empty());
        record(3, "c", since, accepted(false));
        assert_eq!(ledger.senders_accepted_since(since), HashSet::from([3]));
        ledger.record_ack(0, Uuid::nil(), AckState::Confirmed, before);
        ledger.record_ack(0, Uuid::nil(), AckState::Unknown, since);
        assert!(!ledger.ack_confirmed_since(since));
        ledger.record_ack(0, Uuid::nil(), AckState::Confirmed, since);
        // A late confirmation of an earlier request changes nothing.
        ledger.record_ack(0, Uuid::nil(), AckState::Confirmed, before);
        assert!(ledger.ack_confirmed_since(since));
    }
}
