//! Lanes of ordered endpoints. Only the first open delivery of a lane is attempted; the others are held.
//!
//! A lane is either here or in the schedule. When one of its deliveries is spilled, all are, and those that are read
//! later follow them until the schedule has no row of the lane.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{DUE_NOW, DeliveryTracker, Phase, ReadRecord, SpillReason};
use crate::delivery::Delivery;
use crate::lane::EndpointLane;
use crate::retry::schedule::WaitsFor;

/// The lanes that have open deliveries. Bounded by the ledgers.
#[derive(Debug, Default)]
pub(super) struct OrderedLanes {
    /// Tickets in the order of the log.
    open: HashMap<EndpointLane, VecDeque<u64>>,
    /// Lanes of the records that are being tracked, of which the schedule had no row when they had been read.
    free: HashSet<EndpointLane>,
}

impl OrderedLanes {
    fn contains(&self, lane: EndpointLane, ticket: u64) -> bool {
        self.open.get(&lane).is_some_and(|tickets| tickets.contains(&ticket))
    }

    pub(super) fn push(&mut self, lane: EndpointLane, ticket: u64) {
        self.open.entry(lane).or_default().push_back(ticket);
    }

    pub(super) fn is_first(&self, lane: EndpointLane, ticket: u64) -> bool {
        self.open.get(&lane).is_some_and(|tickets| tickets.front() == Some(&ticket))
    }

    /// Removes a ticket. Returns the first one of the lane if it was not the first before.
    pub(super) fn remove(&mut self, lane: EndpointLane, ticket: u64) -> Option<u64> {
        let tickets = self.open.get_mut(&lane)?;
        let index = tickets.iter().position(|other| *other == ticket)?;
        tickets.remove(index);
        let first = tickets.front().copied();
        if first.is_none() {
            self.open.remove(&lane);
        }
        first.filter(|_| index == 0)
    }

    fn take(&mut self, lane: EndpointLane) -> VecDeque<u64> {
        self.open.remove(&lane).unwrap_or_default()
    }
}

impl DeliveryTracker {
    /// Lanes of these records of which only the schedule knows whether it has rows of them.
    pub(crate) fn unknown_lanes(&self, records: &[ReadRecord]) -> Vec<EndpointLane> {
        let deliveries = records.iter().filter_map(|read| read.matched.as_ref()).flat_map(|one| &one.deliveries);
        let is_unknown = |lane: &EndpointLane| !self.ordered.open.contains_key(lane) && !self.has_spilled(*lane);
        let lanes: HashSet<EndpointLane> = deliveries.filter_map(Delivery::endpoint_lane).filter(is_unknown).collect();
        lanes.into_iter().collect()
    }

    /// Says which lanes of the next records have no row in the schedule. It must have been read after the records, and
    /// nothing may be committed between the reading and the tracking.
    pub(crate) fn set_free_lanes(&mut self, free: HashSet<EndpointLane>) {
        self.ordered.free = free;
    }

    /// Whether a delivery follows others into the schedule.
    pub(super) fn is_held_back(&self, delivery: &Delivery) -> bool {
        delivery.endpoint_lane().is_some_and(|lane| {
            let is_here = self.ordered.open.contains_key(&lane) || self.ordered.free.contains(&lane);
            !is_here || self.has_spilled(lane)
        })
    }

    /// Whether a row of the lane waits for a transaction, or is in the running one: then the schedule need not show it.
    fn has_spilled(&self, lane: EndpointLane) -> bool {
        self.spilled.has_lane(lane) || self.committing_lanes.contains(&lane)
    }

    /// A delivery is finished: the next one of its lane goes on.
    pub(super) fn release_lane(&mut self, delivery: &Delivery, ticket: u64) {
        let next = delivery.endpoint_lane().and_then(|lane| self.ordered.remove(lane, ticket));
        let is_decided = |ticket: &u64| self.open.get(ticket).is_some_and(|open| open.phase == Phase::Held);
        if let Some(next) = next.filter(is_decided) {
            self.enqueue(next);
        }
    }

    /// Spills an open delivery, and the others of its lane.
    pub(super) fn spill_ticket(&mut self, ticket: u64, reason: SpillReason) {
        let lane = self.open.get(&ticket).and_then(|open| open.delivery.endpoint_lane());
        match lane.filter(|lane| self.ordered.contains(*lane, ticket)) {
            Some(lane) => self.spill_lane(Some(lane), reason),
            None => self.spill_one(ticket, reason),
        }
    }

    /// Spills a delivery that is not open any more, and then the others of its lane.
    pub(super) fn spill_with_lane(
        &mut self,
        ticket: u64,
        delivery: Delivery,
        generation: u64,
        waits_for: WaitsFor,
        reason: SpillReason,
    ) {
        let lane = delivery.endpoint_lane();
        lane.map(|lane| self.ordered.remove(lane, ticket));
        self.spill(delivery, generation, waits_for, reason);
        self.spill_lane(lane, SpillReason::Follows);
    }

    /// Spills what is open of a lane, in its order.
    pub(super) fn spill_lane(&mut self, lane: Option<EndpointLane>, reason: SpillReason) {
        for ticket in lane.map(|lane| self.ordered.take(lane)).unwrap_or_default() {
            self.spill_one(ticket, reason);
        }
    }

    #[cfg(test)]
    pub(super) fn has_no_lanes(&self) -> bool {
        self.ordered.open.is_empty()
    }

    /// Spills a delivery whose first attempt is not made from the log.
    pub(super) fn spill_unread(
        &mut self,
        delivery: Delivery,
        generation: u64,
        may_be_duplicate: bool,
        reason: SpillReason,
    ) {
        // The ledger may be full while others of the lane are open: they come first.
        self.spill_lane(delivery.endpoint_lane(), reason);
        self.spill(delivery, generation, if may_be_duplicate { WaitsFor::Dedup } else { DUE_NOW }, reason);
    }
}
