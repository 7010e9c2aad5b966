//! Tracks the deliveries of the records that were read: which are open, in which state, which must be spilled, and what
//! the next transaction commits. Every decision on which "at least once" rests is here.
//!
//! Pure: takes `now` and does no I/O. `worker` reads, sends and commits.

mod lane;
mod ordered;
mod plan;
mod spilled_rows;
mod spilling;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka::consumer::CommitProgress;
use kafka::fence::{Advance, Claim};
use schemas::ids::EndpointId;
use uuid::Uuid;

use crate::acks::Success;
use crate::attempt::body::size_in_batch;
use crate::batch::gather::{Room, Waiting};
use crate::delivery::{AttemptOutcome, Delivery, OutboundEvent, RowState, RowUpdate};
use crate::lane::EndpointLane;
use crate::log::fair_queues::FairQueues;
use crate::log::queues::Queued;
use crate::retry::schedule::{LeasedOutcome, WaitsFor};

use lane::Lane;
use ordered::OrderedLanes;
use spilled_rows::SpilledRows;

pub(crate) use lane::PartitionHistory;
pub(crate) use plan::CommitPlan;
pub(crate) use spilling::SpillReason;

/// A row that can be claimed at once for its first attempt.
const DUE_NOW: WaitsFor = WaitsFor::Attempt { attempts: 0, due_after: Duration::ZERO, lease: None, batch_limit: None };

/// A record that was read and matched.
#[derive(Debug)]
pub(crate) struct ReadRecord {
    pub partition: i32,
    pub offset: i64,
    /// Append time, milliseconds since the Unix epoch; `None` for a marker.
    pub timestamp_ms: Option<i64>,
    /// `None`: no endpoint gets the record.
    pub matched: Option<MatchedEvent>,
}

/// An event with its deliveries.
#[derive(Debug)]
pub(crate) struct MatchedEvent {
    pub event: Arc<OutboundEvent>,
    /// One for each endpoint that gets it.
    pub deliveries: Vec<Delivery>,
    /// Then the first attempt waits for the duplicate decision.
    pub may_be_duplicate: bool,
}

/// A delivery that waits for the duplicate decision on its event.
#[derive(Debug, Clone)]
pub(crate) struct Undecided {
    /// For [`DeliveryTracker::apply_decision`].
    pub ticket: u64,
    pub event: Arc<OutboundEvent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for the duplicate decision.
    Undecided,
    /// It has the decision, and waits until its lane goes on.
    Held,
    /// Waits in the queue of its endpoint.
    Waiting,
    InFlight,
    /// In flight, and a row with this lease is in the schedule or in the next transaction.
    Leased(Uuid),
}

#[derive(Debug)]
struct OpenDelivery {
    delivery: Delivery,
    generation: u64,
    phase: Phase,
    read_at: Instant,
}

#[derive(Debug)]
pub(crate) struct DeliveryTracker {
    lanes: HashMap<i32, Lane>,
    open: HashMap<u64, OpenDelivery>,
    /// Tickets in the order of reading, including some that are not open any more.
    by_age: VecDeque<(Instant, u64)>,
    queues: FairQueues,
    ordered: OrderedLanes,
    spilled: SpilledRows,
    /// How many were spilled since the last plan, and why.
    spilled_since: HashMap<SpillReason, u64>,
    /// Lanes with rows in the running transaction.
    committing_lanes: HashSet<EndpointLane>,
    outcomes: Vec<LeasedOutcome>,
    successes: Vec<Success>,
    /// Lease of a row that is spilled while its attempt is in flight.
    lease: Duration,
    last_ticket: u64,
    last_generation: u64,
}

impl DeliveryTracker {
    pub(crate) fn new(queue_capacity: usize, lease: Duration) -> Self {
        Self {
            lanes: HashMap::new(),
            open: HashMap::new(),
            by_age: VecDeque::new(),
            queues: FairQueues::new(queue_capacity),
            ordered: OrderedLanes::default(),
            spilled: SpilledRows::default(),
            spilled_since: HashMap::new(),
            committing_lanes: HashSet::new(),
            outcomes: Vec::new(),
            successes: Vec::new(),
            lease,
            last_ticket: 0,
            last_generation: 0,
        }
    }

    pub(crate) fn assign(&mut self, claim: &Claim, history: PartitionHistory) {
        self.drop_lane(claim.partition);
        self.last_generation += 1;
        self.lanes.insert(claim.partition, Lane::new(self.last_generation, claim, history));
    }

    /// Log epoch of an assigned partition; `None`: its records are ignored.
    pub(crate) fn log_epoch(&self, partition: i32) -> Option<i32> {
        self.lanes.get(&partition).map(|lane| lane.log_epoch)
    }

    pub(crate) fn reached(&self) -> impl Iterator<Item = (i32, CommitProgress)> {
        self.lanes.iter().map(|(partition, lane)| (*partition, lane.reached()))
    }

    /// Starts tracking the deliveries of a record; spills those that do not fit. Returns those that wait for a
    /// duplicate decision.
    pub(crate) fn track(&mut self, read: ReadRecord, now: Instant) -> Vec<Undecided> {
        let mut undecided = Vec::new();
        let Some(lane) = self.lanes.get_mut(&read.partition) else { return undecided };
        let generation = lane.ledger.generation();
        let is_full = lane.ledger.is_full();
        let Some(matched) = read.matched else {
            lane.enter(read.offset, read.timestamp_ms, 0, 0);
            return undecided;
        };
        let event = matched.event;
        let mut deliveries = matched.deliveries;
        deliveries.retain(|delivery| !lane.is_scheduled(delivery));
        if !lane.enter(read.offset, read.timestamp_ms, deliveries.len(), event.size()) {
            return undecided;
        }
        for delivery in deliveries {
            if is_full || self.is_held_back(&delivery) {
                let reason = if is_full { SpillReason::LedgerFull } else { SpillReason::Follows };
                self.spill_unread(delivery, generation, matched.may_be_duplicate, reason);
                continue;
            }
            self.last_ticket += 1;
            let ticket = self.last_ticket;
            self.by_age.push_back((now, ticket));
            if let Some(lane) = delivery.endpoint_lane() {
                self.ordered.push(lane, ticket);
            }
            self.open.insert(ticket, OpenDelivery { delivery, generation, phase: Phase::Undecided, read_at: now });
            if matched.may_be_duplicate {
                undecided.push(Undecided { ticket, event: event.clone() });
            } else {
                self.apply_decision(ticket, true);
            }
        }
        undecided
    }

    /// The duplicate decision: `deliver`, or the event is a duplicate or was erased.
    pub(crate) fn apply_decision(&mut self, ticket: u64, deliver: bool) {
        let Some(open) = self.open.get_mut(&ticket).filter(|open| open.phase == Phase::Undecided) else { return };
        if deliver {
            open.phase = Phase::Held;
            if open.delivery.endpoint_lane().is_none_or(|lane| self.ordered.is_first(lane, ticket)) {
                self.enqueue(ticket);
            }
        } else if let Some(OpenDelivery { delivery, generation, .. }) = self.open.remove(&ticket) {
            self.complete(&delivery, generation);
            self.release_lane(&delivery, ticket);
        }
    }

    /// Puts a delivery into the queue of its endpoint. If the queue is full, the delivery is spilled.
    fn enqueue(&mut self, ticket: u64) {
        let Some(open) = self.open.get_mut(&ticket) else { return };
        let event = &open.delivery.event;
        let queued = Queued { ticket, bytes: size_in_batch(event), since: open.read_at };
        if self.queues.push(event.org_id, open.delivery.endpoint_id, queued) {
            open.phase = Phase::Waiting;
        } else {
            self.spill_ticket(ticket, SpillReason::QueueFull);
        }
    }

    /// The next deliveries to attempt in one request, with what `grant` returned for them. There are as many as it has
    /// room for.
    pub(crate) fn start<S>(
        &mut self,
        grant: impl FnMut(EndpointId, Waiting) -> Option<(S, Room)>,
    ) -> Option<(Vec<(u64, Delivery)>, S)> {
        let (tickets, granted) = self.queues.next(grant)?;
        let start = |ticket| {
            let open = self.open.get_mut(&ticket)?;
            open.phase = Phase::InFlight;
            Some((ticket, open.delivery.clone()))
        };
        Some((tickets.into_iter().filter_map(start).collect(), granted))
    }

    /// The endpoint is deleted, disabled or unusable, or it gets nothing now: the delivery is spilled, and after this
    /// time the retry worker cancels it, holds it, or sends it when the endpoint gets something again.
    pub(crate) fn skip_unavailable(&mut self, ticket: u64, due_after: Duration) {
        if let Some(open) = self.open.remove(&ticket) {
            let waits_for = WaitsFor::Attempt { attempts: 0, due_after, lease: None, batch_limit: None };
            self.spill_with_lane(ticket, open.delivery, open.generation, waits_for, SpillReason::Blocked);
        }
    }

    pub(crate) fn attempt_finished(&mut self, ticket: u64, outcome: AttemptOutcome) {
        let Some(OpenDelivery { delivery, generation, phase, .. }) = self.open.remove(&ticket) else { return };
        let update = outcome.row_update(1);
        match (phase, update.due_after) {
            (Phase::Leased(lease), _) => self.outcomes.push(LeasedOutcome { delivery_id: delivery.id, lease, update }),
            (_, None) => {
                if update.state == RowState::Delivered {
                    self.successes.extend(Success::of(&delivery));
                }
                self.complete(&delivery, generation);
                self.release_lane(&delivery, ticket);
            }
            (_, Some(due_after)) => {
                let RowUpdate { attempts, batch_limit, .. } = update;
                let waits_for = WaitsFor::Attempt { attempts, due_after, lease: None, batch_limit };
                self.spill_with_lane(ticket, delivery, generation, waits_for, SpillReason::Failed);
            }
        }
    }

    /// Spills deliveries that were read at `limit` or before and are not finished.
    pub(crate) fn spill_old(&mut self, limit: Instant) {
        while let Some((_, ticket)) = self.by_age.pop_front_if(|(read_at, _)| *read_at <= limit) {
            self.spill_ticket(ticket, SpillReason::Unfinished);
        }
    }

    /// Spills the open deliveries of a partition, or of all. Attempts in flight continue under leases.
    pub(crate) fn spill_all(&mut self, partition: Option<i32>) {
        let is_concerned =
            |open: &OpenDelivery| partition.is_none_or(|partition| open.delivery.event.partition == partition);
        let mut tickets: Vec<u64> =
            self.open.iter().filter(|(_, open)| is_concerned(open)).map(|(ticket, _)| *ticket).collect();
        tickets.sort_unstable();
        for ticket in tickets {
            self.spill_ticket(ticket, SpillReason::Released);
        }
    }

    /// Drops a partition: nothing more of it is committed. Its next owner reads the uncommitted records again.
    pub(crate) fn drop_lane(&mut self, partition: i32) {
        let Some(lane) = self.lanes.remove(&partition) else { return };
        let generation = lane.ledger.generation();
        self.spilled.drop_partition(partition);
        let tickets: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.generation == generation).map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            let Some(open) = self.open.get(&ticket) else { continue };
            match open.phase {
                Phase::Waiting => self.queues.remove(open.delivery.event.org_id, open.delivery.endpoint_id, ticket),
                // Its row exists independently of the partition, so its outcome still counts.
                Phase::Leased(_) => continue,
                Phase::Undecided | Phase::Held | Phase::InFlight => {}
            }
            if let Some(open) = self.open.remove(&ticket) {
                self.release_lane(&open.delivery, ticket);
            }
        }
    }

    /// Drops a partition that was fenced under this epoch. `false`: this instance has claimed it again since.
    pub(crate) fn drop_fenced(&mut self, partition: i32, epoch: i64) -> bool {
        let is_current = self.lanes.get(&partition).is_some_and(|lane| lane.epoch == epoch);
        if is_current {
            self.drop_lane(partition);
        }
        is_current
    }

    pub(crate) fn drop_all(&mut self) {
        let partitions: Vec<i32> = self.lanes.keys().copied().collect();
        partitions.into_iter().for_each(|partition| self.drop_lane(partition));
    }

    /// The content of the next transaction, with rows of at most `max_bytes`. The next plan may be made only after
    /// [`Self::committed`].
    pub(crate) fn plan(&mut self, max_bytes: usize) -> CommitPlan {
        let rows = self.spilled.take(max_bytes);
        self.committing_lanes = rows.iter().filter_map(|row| row.delivery.endpoint_lane()).collect();
        // The position and the outcomes of leased attempts wait for the rows that remain.
        let (limits, waiting_leases) = (self.spilled.first_offsets(), self.spilled.leases());
        let (later, outcomes) =
            std::mem::take(&mut self.outcomes).into_iter().partition(|outcome| waiting_leases.contains(&outcome.lease));
        self.outcomes = later;
        let with_rows: HashSet<i32> = rows.iter().map(|row| row.delivery.event.partition).collect();
        let advance = |(partition, lane): (&i32, &Lane)| {
            // Rows are fenced even if the position cannot advance yet: a fenced instance writes no rows.
            lane.advance(*partition, limits.get(partition).copied())
                .or_else(|| with_rows.contains(partition).then(|| lane.fence(*partition)))
        };
        let advances = self.lanes.iter().filter_map(advance).collect();
        let (successes, spilled) = (std::mem::take(&mut self.successes), std::mem::take(&mut self.spilled_since));
        CommitPlan { advances, rows, outcomes, successes, spilled }
    }

    pub(crate) fn committed(&mut self, advances: &[Advance]) {
        self.committing_lanes.clear();
        for advance in advances {
            if let Some(lane) = self.lanes.get_mut(&advance.partition).filter(|lane| lane.epoch == advance.epoch) {
                lane.committed = advance.next;
            }
        }
    }

    /// Whether there is anything to commit.
    pub(crate) fn has_progress(&self) -> bool {
        self.spilled.len() > 0
            || !self.outcomes.is_empty()
            || !self.successes.is_empty()
            || self.lanes.iter().any(|(partition, lane)| lane.advance(*partition, None).is_some())
    }

    /// Rows that wait for the next transaction.
    pub(crate) fn rows_waiting(&self) -> usize {
        self.spilled.len()
    }

    /// Approximate size of the rows that wait, bytes.
    pub(crate) fn row_bytes_waiting(&self) -> usize {
        self.spilled.bytes()
    }

    /// Deliveries in the queues of their endpoints.
    pub(crate) fn queue_depth(&self) -> usize {
        self.queues.depth()
    }

    /// Deliveries that wait for a slot of their endpoint.
    pub(crate) fn queues(&self) -> &FairQueues {
        &self.queues
    }

    /// Records of all partitions that are read and not committed.
    pub(crate) fn uncommitted(&self) -> usize {
        self.lanes.values().map(|lane| lane.ledger.len()).sum()
    }

    fn complete(&mut self, delivery: &Delivery, generation: u64) -> bool {
        self.lanes
            .get_mut(&delivery.event.partition)
            .is_some_and(|lane| lane.complete(generation, delivery.event.offset))
    }
}

#[cfg(test)]
mod tests;
