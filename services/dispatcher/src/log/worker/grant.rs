//! Which first attempts start now, and what one request carries.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::budget::Permit;
use schemas::ids::EndpointId;

use super::MAX_SPILLED_WAIT;
use crate::attempt::slots::{Grant, Pool, Slot, Slots};
use crate::batch::bytes::BatchBytes;
use crate::batch::gather::{Room, Waiting, wait_until};
use crate::endpoints::matching::{Endpoint, EndpointState, Snapshot};

/// The right to one request.
pub(super) struct Granted {
    pub endpoint: Arc<Endpoint>,
    pub slot: Slot,
    /// Of a batch: its bytes.
    pub permit: Option<Permit>,
}

/// A request, or how long the endpoint takes no attempts.
type Grants = Result<Granted, Duration>;

/// Grants requests at one moment, under one snapshot of the endpoints.
pub(super) struct Granter<'a> {
    pub snapshot: &'a Snapshot,
    pub slots: &'a Slots,
    pub batch_bytes: &'a BatchBytes,
    /// Of the queue of an endpoint.
    pub queue_capacity: usize,
    /// How long a delivery may wait here at most.
    pub spill_after: Duration,
    pub now: Instant,
    /// When the first batch that still waits for events is sent.
    pub next_batch: Option<Instant>,
}

impl Granter<'_> {
    /// `None`: nothing of the endpoint starts now. `Some(Err(wait))`: the endpoint takes no attempts, so that the
    /// delivery leaves the queue without one, and is looked at again after that time.
    pub(super) fn grant(&mut self, id: EndpointId, waiting: Waiting) -> Option<(Grants, Room)> {
        let EndpointState::Enabled(endpoint) = self.snapshot.state(id) else {
            return Some((Err(Duration::ZERO), Room::ONE));
        };
        let Some(settings) = &endpoint.batch else { return self.request(endpoint, Room::ONE, None) };
        if let Some(end) = wait_until(settings, waiting, self.queue_capacity, self.now) {
            self.next_batch = Some(self.next_batch.map_or(end, |next| next.min(end)));
            return None;
        }
        let room = Room::of(settings);
        let (events, bytes) = (waiting.events.min(room.events), waiting.bytes.min(room.bytes));
        let permit = self.batch_bytes.take(endpoint.org_id, events, bytes)?;
        self.request(endpoint, room, Some(permit))
    }

    fn request(&self, endpoint: &Arc<Endpoint>, room: Room, permit: Option<Permit>) -> Option<(Grants, Room)> {
        let granted = match self.slots.take(Pool::FirstAttempts, endpoint, self.now) {
            Grant::Slot(slot) => Ok(Granted { endpoint: endpoint.clone(), slot, permit }),
            // It would wait for too long here.
            Grant::RateLimited(wait) if wait >= self.spill_after => Err(MAX_SPILLED_WAIT),
            Grant::Busy | Grant::RateLimited(_) => return None,
            Grant::Blocked(wait) => Err(wait.min(MAX_SPILLED_WAIT)),
        };
        Some((granted, room))
    }
}

/// Waits until then; for ever without a time.
pub(super) async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => pending().await,
    }
}
