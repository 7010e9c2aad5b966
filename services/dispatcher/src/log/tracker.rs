//! The desk between the log and the requests: which deliveries are open, in which state, what must be spilled, and what
//! the next transaction holds. Everything that decides whether something can be lost or sent twice is here.
//!
//! Pure: takes `now`, does nothing itself. Reading, sending and committing live in `run`, `flight` and `commit`.

mod lane;
mod plan;
mod scheduled;
mod spilled;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::consumer::Reached;
use kafka::fence::{Advance, Claim};
use schemas::ids::EndpointId;
use uuid::Uuid;

use crate::delivery::{Accepted, AttemptOutcome, Delivery, Outcome};
use crate::log::queues::EndpointQueues;
use crate::retry::schedule::{NewRow, Settlement, WaitsFor};

use lane::Lane;
use spilled::Spilled;

pub(crate) use plan::Plan;
pub(crate) use scheduled::Scheduled;

/// A row that can be claimed at once for its first attempt.
const DUE_NOW: WaitsFor = WaitsFor::Attempt { attempts: 0, due_after: Duration::ZERO, lease: None };

/// A record as the desk takes it in.
#[derive(Debug)]
pub(crate) struct Read {
    pub partition: i32,
    pub offset: i64,
    /// Append time, milliseconds since the Unix epoch; `None` for a marker.
    pub timestamp_ms: Option<i64>,
    /// The event and where it goes; `None` for a record that nobody receives.
    pub matched: Option<Matched>,
}

/// An event with its endpoints.
#[derive(Debug)]
pub(crate) struct Matched {
    pub event: Arc<Accepted>,
    pub endpoints: Vec<EndpointId>,
    /// Whether it must be known first that it is no duplicate.
    pub keyed: bool,
}

/// A delivery whose event may be a duplicate.
#[derive(Debug, Clone)]
pub(crate) struct Undecided {
    /// To be handed back to [`DeliveryTracker::apply_decision`].
    pub ticket: u64,
    /// The event in question.
    pub event: Arc<Accepted>,
}

/// What was before an assignment of a partition.
#[derive(Debug, Default)]
pub(crate) struct Before {
    /// Deliveries of records from the position on that have rows already.
    pub scheduled: Scheduled,
    /// Append time of the last record before the position, milliseconds since the Unix epoch.
    pub record_time_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for the view to say whether its event is a duplicate.
    Undecided,
    /// Waits for its turn.
    Waiting,
    /// An attempt is being made.
    InFlight,
    /// An attempt is being made, and a row with this lease is in the schedule or in the next transaction.
    Leased(Uuid),
}

#[derive(Debug)]
struct Open {
    delivery: Delivery,
    generation: u64,
    phase: Phase,
}

#[derive(Debug)]
pub(crate) struct DeliveryTracker {
    lanes: HashMap<i32, Lane>,
    open: HashMap<u64, Open>,
    /// Tickets in the order of reading; what is no longer open is skipped.
    aging: VecDeque<(Instant, u64)>,
    queues: EndpointQueues,
    rows: Spilled,
    settlements: Vec<Settlement>,
    /// How long an attempt that is under way at its spilling keeps others away from its row.
    lease: Duration,
    last_ticket: u64,
    last_generation: u64,
}

impl DeliveryTracker {
    pub(crate) fn new(queue_capacity: usize, lease: Duration) -> Self {
        Self {
            lanes: HashMap::new(),
            open: HashMap::new(),
            aging: VecDeque::new(),
            queues: EndpointQueues::new(queue_capacity),
            rows: Spilled::default(),
            settlements: Vec::new(),
            lease,
            last_ticket: 0,
            last_generation: 0,
        }
    }

    pub(crate) fn assign(&mut self, claim: &Claim, before: Before) {
        self.drop_lane(claim.partition);
        self.last_generation += 1;
        self.lanes.insert(claim.partition, Lane::new(self.last_generation, claim, before));
    }

    /// Whether records of this partition are taken, and from which log.
    pub(crate) fn log_epoch(&self, partition: i32) -> Option<i32> {
        self.lanes.get(&partition).map(|lane| lane.log_epoch)
    }

    /// How far the partitions have come.
    pub(crate) fn reached(&self) -> impl Iterator<Item = (i32, Reached)> {
        self.lanes.iter().map(|(partition, lane)| (*partition, lane.reached()))
    }

    /// Takes a record in. What must be decided first comes back; what does not fit goes to the schedule.
    pub(crate) fn enter(&mut self, read: Read, now: Instant) -> Vec<Undecided> {
        let mut undecided = Vec::new();
        let Some(lane) = self.lanes.get_mut(&read.partition) else { return undecided };
        let generation = lane.ledger.generation();
        let beyond = lane.ledger.is_full();
        let Some(matched) = read.matched else {
            lane.enter(read.offset, read.timestamp_ms, 0, 0);
            return undecided;
        };
        let event = matched.event;
        let deliveries: Vec<Delivery> =
            matched.endpoints.into_iter().map(|endpoint| Delivery::new(endpoint, event.clone())).collect();
        let deliveries: Vec<Delivery> =
            deliveries.into_iter().filter(|delivery| !lane.is_scheduled(delivery)).collect();
        if !lane.enter(read.offset, read.timestamp_ms, deliveries.len(), event.size()) {
            return undecided;
        }
        for delivery in deliveries {
            if beyond {
                self.spill(delivery, generation, if matched.keyed { WaitsFor::Dedup } else { DUE_NOW });
                continue;
            }
            self.last_ticket += 1;
            let ticket = self.last_ticket;
            self.aging.push_back((now, ticket));
            self.open.insert(ticket, Open { delivery, generation, phase: Phase::Undecided });
            if matched.keyed {
                undecided.push(Undecided { ticket, event: event.clone() });
            } else {
                self.apply_decision(ticket, true);
            }
        }
        undecided
    }

    /// The view has spoken: `deliver`, or the event is a duplicate or gone.
    pub(crate) fn apply_decision(&mut self, ticket: u64, deliver: bool) {
        let Some(open) = self.open.get_mut(&ticket).filter(|open| open.phase == Phase::Undecided) else { return };
        if deliver && self.queues.push(open.delivery.endpoint_id, ticket) {
            open.phase = Phase::Waiting;
            return;
        }
        let Some(open) = self.open.remove(&ticket) else { return };
        if deliver {
            self.spill(open.delivery, open.generation, DUE_NOW);
        } else {
            self.complete(&open.delivery, open.generation);
        }
    }

    /// The next delivery to attempt, with the slot that `slot` gave for it.
    pub(crate) fn start<S>(&mut self, slot: impl FnMut(EndpointId) -> Option<S>) -> Option<(u64, Delivery, S)> {
        let (ticket, slot) = self.queues.next(slot)?;
        let open = self.open.get_mut(&ticket)?;
        open.phase = Phase::InFlight;
        Some((ticket, open.delivery.clone(), slot))
    }

    /// The endpoint of a delivery that was about to be attempted is deleted, disabled or unusable: nothing is sent. Its
    /// row lets the retries decide, which know the difference.
    pub(crate) fn skip_unavailable(&mut self, ticket: u64) {
        if let Some(open) = self.open.remove(&ticket) {
            self.spill(open.delivery, open.generation, DUE_NOW);
        }
    }

    /// An attempt has ended.
    pub(crate) fn attempt_finished(&mut self, ticket: u64, landing: AttemptOutcome) {
        let Some(open) = self.open.remove(&ticket) else { return };
        match (open.phase, landing) {
            (Phase::Leased(lease), landing) => {
                self.settlements.push(Settlement { delivery_id: open.delivery.id, lease, outcome: landing.outcome(1) });
            }
            (_, AttemptOutcome::Delivered | AttemptOutcome::Failed) => {
                self.complete(&open.delivery, open.generation);
            }
            (_, landing) => {
                let Outcome::Again { attempts, after } = landing.outcome(1) else { return };
                let waits_for = WaitsFor::Attempt { attempts, due_after: after, lease: None };
                self.spill(open.delivery, open.generation, waits_for);
            }
        }
    }

    /// Spills what was read before `limit` and is not finished.
    pub(crate) fn age(&mut self, limit: Instant) {
        while let Some((_, ticket)) = self.aging.pop_front_if(|(read_at, _)| *read_at <= limit) {
            self.spill_ticket(ticket);
        }
    }

    /// Spills everything that is open in a partition, or in all. Attempts under way go on, under leases.
    pub(crate) fn spill_all(&mut self, partition: Option<i32>) {
        let concerned = |open: &Open| partition.is_none_or(|partition| open.delivery.event.partition == partition);
        let mut tickets: Vec<u64> =
            self.open.iter().filter(|(_, open)| concerned(open)).map(|(ticket, _)| *ticket).collect();
        tickets.sort_unstable();
        for ticket in tickets {
            self.spill_ticket(ticket);
        }
    }

    /// Drops a partition: nothing more is committed of it. The next claimant reads the uncommitted records again.
    pub(crate) fn drop_lane(&mut self, partition: i32) {
        let Some(lane) = self.lanes.remove(&partition) else { return };
        let generation = lane.ledger.generation();
        self.rows.forget(partition);
        let gone: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.generation == generation).map(|(ticket, _)| *ticket).collect();
        for ticket in gone {
            let Some(open) = self.open.get(&ticket) else { continue };
            match open.phase {
                Phase::Waiting => self.queues.remove(open.delivery.endpoint_id, ticket),
                // Its row is not the partition's any more, so its outcome still counts.
                Phase::Leased(_) => continue,
                Phase::Undecided | Phase::InFlight => {}
            }
            self.open.remove(&ticket);
        }
    }

    /// Ends a partition that was lost under this epoch. `false`: it was claimed again since, and that goes on.
    pub(crate) fn lose(&mut self, partition: i32, epoch: i64) -> bool {
        let is_lost = self.lanes.get(&partition).is_some_and(|lane| lane.epoch == epoch);
        if is_lost {
            self.drop_lane(partition);
        }
        is_lost
    }

    pub(crate) fn drop_all(&mut self) {
        let partitions: Vec<i32> = self.lanes.keys().copied().collect();
        partitions.into_iter().for_each(|partition| self.drop_lane(partition));
    }

    /// What the next transaction holds, with rows of at most so many bytes. Until [`Self::committed`] no second plan
    /// may be asked for.
    pub(crate) fn plan(&mut self, max_bytes: usize) -> Plan {
        let rows = self.rows.take(max_bytes);
        // For the rows that are left, everything of theirs waits too: the position, and the outcome of an attempt under
        // their lease.
        let (left, leases_left) = (self.rows.first_offsets(), self.rows.leases());
        let (later, settlements) = std::mem::take(&mut self.settlements)
            .into_iter()
            .partition(|settlement| leases_left.contains(&settlement.lease));
        self.settlements = later;
        let with_rows: HashSet<i32> = rows.iter().map(|row| row.delivery.event.partition).collect();
        let next_move = |(partition, lane): (&i32, &Lane)| {
            // Rows are fenced even where the position cannot move yet: a writer that was overtaken schedules nothing.
            lane.next_move(*partition, left.get(partition).copied())
                .or_else(|| with_rows.contains(partition).then(|| lane.stay(*partition)))
        };
        let moves = self.lanes.iter().filter_map(next_move).collect();
        Plan { moves, rows, settlements }
    }

    /// These positions were committed.
    pub(crate) fn committed(&mut self, moves: &[Advance]) {
        for one in moves {
            if let Some(lane) = self.lanes.get_mut(&one.partition).filter(|lane| lane.epoch == one.epoch) {
                lane.committed = one.next;
            }
        }
    }

    /// Whether a transaction would hold anything.
    pub(crate) fn has_progress(&self) -> bool {
        self.rows.len() > 0
            || !self.settlements.is_empty()
            || self.lanes.iter().any(|(partition, lane)| lane.next_move(*partition, None).is_some())
    }

    /// Rows that wait for the next transaction.
    pub(crate) fn rows_waiting(&self) -> usize {
        self.rows.len()
    }

    /// Their bytes, about.
    pub(crate) fn row_bytes_waiting(&self) -> usize {
        self.rows.bytes()
    }

    /// Deliveries that wait for their turn.
    pub(crate) fn queue_depth(&self) -> usize {
        self.queues.depth()
    }

    /// Records that are read and not committed, over all partitions.
    pub(crate) fn uncommitted(&self) -> usize {
        self.lanes.values().map(|lane| lane.ledger.len()).sum()
    }

    fn spill_ticket(&mut self, ticket: u64) {
        let Some(open) = self.open.get_mut(&ticket) else { return };
        match open.phase {
            Phase::Leased(_) => {}
            Phase::InFlight => {
                let lease = Uuid::new_v4();
                open.phase = Phase::Leased(lease);
                let (delivery, generation) = (open.delivery.clone(), open.generation);
                let waits_for = WaitsFor::Attempt { attempts: 0, due_after: self.lease, lease: Some(lease) };
                self.spill(delivery, generation, waits_for);
            }
            phase @ (Phase::Undecided | Phase::Waiting) => {
                let Some(open) = self.open.remove(&ticket) else { return };
                self.queues.remove(open.delivery.endpoint_id, ticket);
                let waits_for = if phase == Phase::Undecided { WaitsFor::Dedup } else { DUE_NOW };
                self.spill(open.delivery, open.generation, waits_for);
            }
        }
    }

    /// The row goes into the next transaction, so in the ledger its part is done: the position moves with it or after
    /// it, never before.
    fn spill(&mut self, delivery: Delivery, generation: u64, waits_for: WaitsFor) {
        let counted = self.complete(&delivery, generation);
        // A row of an earlier assignment is not ours to write: the new owner of the partition reads the record again.
        if counted {
            self.rows.push(NewRow { delivery, waits_for });
        }
    }

    fn complete(&mut self, delivery: &Delivery, generation: u64) -> bool {
        self.lanes
            .get_mut(&delivery.event.partition)
            .is_some_and(|lane| lane.complete(generation, delivery.event.offset))
    }
}

#[cfg(test)]
mod tests;
