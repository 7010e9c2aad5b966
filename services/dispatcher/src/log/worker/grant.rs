//! Which first attempts start now, and what one request carries.

use std::future::pending;
use std::sync::Arc;
use std::time::Instant;

use runtime::budget::Permit;
use schemas::ids::EndpointId;

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

/// Grants requests at one moment, under one snapshot of the endpoints.
pub(super) struct Granter<'a> {
    pub snapshot: &'a Snapshot,
    pub slots: &'a Slots,
    pub batch_bytes: &'a BatchBytes,
    /// Of the queue of an endpoint.
    pub queue_capacity: usize,
    pub now: Instant,
    /// When the first batch that still waits for events is sent.
    pub next_batch: Option<Instant>,
}

impl Granter<'_> {
    /// `None`: nothing of the endpoint starts now. `Some(None)`: the endpoint takes no attempts, so that the delivery
    /// leaves the queue without one.
    pub(super) fn grant(&mut self, id: EndpointId, waiting: Waiting) -> Option<(Option<Granted>, Room)> {
        let EndpointState::Enabled(endpoint) = self.snapshot.state(id) else { return Some((None, Room::ONE)) };
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

    fn request(&self, endpoint: &Arc<Endpoint>, room: Room, permit: Option<Permit>) -> Option<(Option<Granted>, Room)> {
        match self.slots.take(Pool::FirstAttempts, endpoint, self.now) {
            Grant::Slot(slot) => Some((Some(Granted { endpoint: endpoint.clone(), slot, permit }), room)),
            Grant::Busy => None,
            Grant::CircuitOpen(_) => Some((None, room)),
        }
    }
}

/// Waits until then; for ever without a time.
pub(super) async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => pending().await,
    }
}
