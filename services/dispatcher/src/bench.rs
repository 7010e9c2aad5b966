//! Bodies, signatures and the bookkeeping of deliveries, for `loadtests/micro`. No I/O.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::fence::Claim;
use schemas::ids::{EndpointId, OrgId};

use crate::attempt::body;
use crate::attempt::sign::{self, Secret};
use crate::batch::gather::Room;
use crate::delivery::{AttemptOutcome, Delivery, OutboundEvent, outbound_event};
use crate::log::ledger::Ledger;
use crate::log::tracker::{DeliveryTracker, MatchedEvent, PartitionHistory, ReadRecord};

const TIMESTAMP_SECONDS: i64 = 1_795_000_000;

/// Webhooks of one event to an endpoint with one secret.
pub struct Webhook {
    event: OutboundEvent,
    id: String,
    secrets: Vec<Secret>,
}

impl Webhook {
    /// An event with this payload.
    pub fn new(event_type: &str, payload: &str) -> Self {
        let event = event(OrgId::generate(), event_type, payload, 0);
        Self { id: event.event_id.to_string(), event, secrets: Secret::from_bytes(&[7; 32]).into_iter().collect() }
    }

    /// The body of each request.
    pub fn body(&self) -> Vec<u8> {
        body::request_body(&self.event)
    }

    /// The value of `webhook-signature` for this body.
    pub fn signature(&self, body: &[u8]) -> String {
        sign::sign(&self.secrets, &self.id, TIMESTAMP_SECONDS, body)
    }
}

/// Enters so many records with one delivery each into a ledger, completes them, newest first in each ten, and returns
/// the position that may be committed.
pub fn ledger(records: i64) -> i64 {
    let mut ledger = Ledger::new(1, 0);
    for offset in 0..records {
        // Only a record that is read twice is refused.
        ledger.enter(offset, Some(offset), 1, 600).ok();
    }
    for ten in (0..records).step_by(10) {
        for offset in (ten..records.min(ten + 10)).rev() {
            ledger.complete(1, offset);
        }
    }
    ledger.frontier()
}

/// Records of one partition, each for one endpoint.
pub struct Deliveries(Vec<Delivery>);

impl Deliveries {
    /// So many events with this payload, in offset order from 0.
    pub fn new(records: i64, event_type: &str, payload: &str) -> Self {
        let (org_id, endpoint) = (OrgId::generate(), EndpointId::generate());
        let delivery = |offset| Delivery::new(endpoint, Arc::new(event(org_id, event_type, payload, offset)));
        Self((0..records).map(delivery).collect())
    }

    /// Tracks all of them from reading the record to a success at the first attempt, and returns the position that
    /// the next transaction commits.
    pub fn track(&self) -> Option<i64> {
        let mut tracker = DeliveryTracker::new(self.0.len(), Duration::from_secs(55));
        let claim = Claim { topic: Arc::from("events"), partition: 0, epoch: 1, log_epoch: 1, next_offset: 0 };
        tracker.assign(&claim, PartitionHistory::default());
        let now = Instant::now();
        for delivery in &self.0 {
            let (event, offset) = (delivery.event.clone(), delivery.event.offset);
            let matched = MatchedEvent { event, deliveries: vec![delivery.clone()], may_be_duplicate: false };
            tracker.track(ReadRecord { partition: 0, offset, timestamp_ms: Some(offset), matched: Some(matched) }, now);
        }
        while let Some((started, ())) = tracker.start(|_, _| Some(((), Room::ONE))) {
            for (ticket, _) in started {
                tracker.attempt_finished(ticket, AttemptOutcome::Delivered);
            }
        }
        tracker.plan(usize::MAX).advances.first().map(|advance| advance.next)
    }
}

fn event(org_id: OrgId, event_type: &str, payload: &str, offset: i64) -> OutboundEvent {
    let (event_type, payload) = (event_type.to_owned(), payload.to_owned());
    OutboundEvent { event_type, payload, offset, ..outbound_event(org_id) }
}
