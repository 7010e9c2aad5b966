//! One sender: its tags, its bodies and its pace.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;

use super::context::{RoundContext, Tenant};
use crate::ledger::{SendOutcome, Sent};

/// What every sender has.
pub(super) struct Sender {
    pub context: Arc<RoundContext>,
    /// Index of the organization.
    pub tenant: usize,
    /// Number of the sender, unique in the round; it also chooses the ordering key.
    pub number: usize,
    /// Time between the starts of two events.
    pub interval: Duration,
    /// Becomes `true` when the sender has to stop.
    pub stop: watch::Receiver<bool>,
}

impl Sender {
    /// The tag of its event `seq`.
    pub(super) fn tag(&self, seq: u64) -> String {
        format!("{}-o{}-s{}-{seq}", self.context.prefix, self.tenant, self.number)
    }

    pub(super) fn tenant(&self) -> Option<&Tenant> {
        self.context.tenants.get(self.tenant)
    }

    /// The body of an event: the same bytes for the same tag.
    pub(super) fn body(&self, tag: &str, dedup_id: bool) -> String {
        let org = self.tenant().map(|tenant| tenant.org);
        let mut event = json!({
            "event_type": format!("fault.{}", self.number % 3),
            "payload": {"tag": tag, "org": org, "pad": "x".repeat(200)},
            "ordering_key": format!("key-{}", self.number),
        });
        if let (true, Some(fields)) = (dedup_id, event.as_object_mut()) {
            fields.insert("dedup_id".to_owned(), tag.into());
        }
        event.to_string()
    }

    /// Records the outcome of a request that was started then and is finished now.
    pub(super) fn record(&self, tag: &str, started: Instant, outcome: SendOutcome) {
        self.context.ledger.record(Sent {
            tenant: self.tenant,
            sender: self.number,
            tag: tag.to_owned(),
            started,
            finished: Instant::now(),
            outcome,
        });
    }

    /// Waits until the next event is due. Returns `false` when the sender has to stop.
    pub(super) async fn wait_for_turn(&mut self, started: Instant) -> bool {
        let left = self.interval.saturating_sub(started.elapsed());
        tokio::select! {
            _ = self.stop.wait_for(|stop| *stop) => false,
            () = tokio::time::sleep(left) => true,
        }
    }

    /// Whether the sender has to stop.
    pub(super) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }
}
