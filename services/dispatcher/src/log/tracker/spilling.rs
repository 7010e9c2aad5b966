//! Moves open deliveries to the schedule.

use uuid::Uuid;

use super::{DUE_NOW, DeliveryTracker, Phase};
use crate::delivery::Delivery;
use crate::retry::schedule::{NewRow, WaitsFor};

/// Why a delivery is spilled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SpillReason {
    /// The first attempt failed.
    Failed,
    /// It was not finished in time: it waited for a slot or its duplicate decision, or its attempt took too long.
    Unfinished,
    /// The queue of its endpoint was full.
    QueueFull,
    /// Too many records, or bytes, of its partition follow one that is not finished.
    LedgerFull,
    /// Its endpoint gets nothing now: it is deleted or disabled, its circuit is open, or it asked for a pause.
    Blocked,
    /// It is of an ordered endpoint, and others of its lane are in the schedule.
    Follows,
    /// Its partition was given up.
    Released,
}

impl SpillReason {
    /// As a label of the metric.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Unfinished => "unfinished",
            Self::QueueFull => "queue_full",
            Self::LedgerFull => "ledger_full",
            Self::Blocked => "blocked",
            Self::Follows => "follows",
            Self::Released => "released",
        }
    }
}

impl DeliveryTracker {
    pub(super) fn spill_one(&mut self, ticket: u64, reason: SpillReason) {
        let Some(open) = self.open.get_mut(&ticket) else { return };
        match open.phase {
            Phase::Leased(_) => {}
            Phase::InFlight => {
                let lease = Uuid::new_v4();
                open.phase = Phase::Leased(lease);
                let (delivery, generation) = (open.delivery.clone(), open.generation);
                let (due_after, lease) = (self.lease, Some(lease));
                let waits_for = WaitsFor::Attempt { attempts: 0, due_after, lease, batch_limit: None };
                self.spill(delivery, generation, waits_for, reason);
            }
            phase @ (Phase::Undecided | Phase::Held | Phase::Waiting) => {
                let Some(open) = self.open.remove(&ticket) else { return };
                self.queues.remove(open.delivery.event.org_id, open.delivery.endpoint_id, ticket);
                let waits_for = if phase == Phase::Undecided { WaitsFor::Dedup } else { DUE_NOW };
                self.spill(open.delivery, open.generation, waits_for, reason);
            }
        }
    }

    /// The row is part of the next transaction, so the delivery is finished in the ledger: the position advances with
    /// the row or after it, never before.
    pub(super) fn spill(&mut self, delivery: Delivery, generation: u64, waits_for: WaitsFor, reason: SpillReason) {
        let is_current = self.complete(&delivery, generation);
        // A delivery of an earlier assignment gets no row: the new owner of the partition reads the record again.
        if is_current {
            self.spilled.push(NewRow { delivery, waits_for });
            *self.spilled_since.entry(reason).or_default() += 1;
        }
    }
}
