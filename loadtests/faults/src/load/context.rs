//! What senders and readers of one round share: the organizations, the ways in, and the ledger.

use std::sync::Arc;
use std::time::Instant;

use schemas::topics::TopicNames;
use uuid::Uuid;

use crate::client::Api;
use crate::ledger::Ledger;
use crate::receiver::Receiver;

/// By HTTP there is one sender for each way to name an event.
pub(super) const NAMINGS: [Naming; 3] = [Naming::None, Naming::IdempotencyKey, Naming::DedupId];
/// Senders of each organization: those by HTTP, and a native one.
pub(super) const SENDERS_PER_TENANT: usize = NAMINGS.len() + 1;

/// How a sender names its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// Not at all: a request with an unknown outcome is never retried.
    None,
    /// By the header `Idempotency-Key`.
    IdempotencyKey,
    /// By the field `dedup_id`.
    DedupId,
}

/// An organization of one round.
pub(crate) struct Tenant {
    pub org: Uuid,
    /// An API key with all permissions for events.
    pub key: String,
    /// Names of its endpoints at the receiver.
    pub endpoints: Vec<String>,
}

/// The context of one round.
pub(crate) struct RoundContext {
    /// Client of the HTTP API.
    pub api: Arc<Api>,
    /// Bootstrap servers for native records.
    pub brokers: String,
    /// Names of the topics.
    pub topics: TopicNames,
    pub tenants: Arc<Vec<Tenant>>,
    pub ledger: Arc<Ledger>,
    /// The webhook receiver: an event is acknowledged only after its delivery.
    pub receiver: Arc<Receiver>,
    /// Events per second over all senders.
    pub rate: u32,
    /// Prefix of all tags, which tells rounds apart.
    pub prefix: String,
}

impl RoundContext {
    /// What was not accepted in any organization since then, as a sentence: events of one kind of HTTP sender, or
    /// acknowledgements.
    pub(crate) fn not_accepted_since(&self, since: Instant) -> Option<String> {
        let accepted = self.ledger.senders_accepted_since(since);
        let is_blocked =
            |nth: usize| !(0..self.tenants.len()).any(|tenant| accepted.contains(&(tenant * SENDERS_PER_TENANT + nth)));
        if let Some((_, naming)) = NAMINGS.iter().enumerate().find(|(nth, _)| is_blocked(*nth)) {
            return Some(format!("no event with the name {naming:?} was accepted since the fault"));
        }
        let is_confirmed = self.ledger.ack_confirmed_since(since);
        (!is_confirmed).then(|| "no acknowledgement was confirmed since the fault".to_owned())
    }
}
