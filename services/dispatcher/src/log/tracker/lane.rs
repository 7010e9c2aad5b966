//! The tracker's state of one partition under one assignment.

use std::sync::Arc;

use kafka::consumer::CommitProgress;
use kafka::fence::{Advance, Claim};
use tracing::error;

use crate::delivery::Delivery;
use crate::log::ledger::{Completion, Ledger};
use crate::retry::schedule::ScheduledDeliveries;

/// What earlier assignments left of a partition.
#[derive(Debug, Default)]
pub(crate) struct PartitionHistory {
    /// Deliveries of records from the position on that have rows already.
    pub scheduled: ScheduledDeliveries,
    /// Append time of the last record before the position, milliseconds since the Unix epoch.
    pub record_time_ms: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Lane {
    topic: Arc<str>,
    pub(super) epoch: i64,
    pub(super) log_epoch: i32,
    pub(super) ledger: Ledger,
    /// The position in the database.
    pub(super) committed: i64,
    history: PartitionHistory,
}

impl Lane {
    pub(super) fn new(generation: u64, claim: &Claim, history: PartitionHistory) -> Self {
        Self {
            topic: claim.topic.clone(),
            epoch: claim.epoch,
            log_epoch: claim.log_epoch,
            ledger: Ledger::new(generation, claim.next_offset),
            committed: claim.next_offset,
            history,
        }
    }

    pub(super) fn reached(&self) -> CommitProgress {
        let last_done_ms = self.ledger.frontier_time_ms().or(self.history.record_time_ms);
        CommitProgress { next_offset: self.committed, open_since_ms: self.ledger.open_since_ms(), last_done_ms }
    }

    /// Whether a row of an earlier assignment covers this delivery of this record.
    pub(super) fn is_scheduled(&mut self, delivery: &Delivery) -> bool {
        self.history.scheduled.take(delivery)
    }

    /// `false`: the record was read before.
    pub(super) fn enter(&mut self, offset: i64, timestamp_ms: Option<i64>, parts: usize, bytes: usize) -> bool {
        let entered = self.ledger.enter(offset, timestamp_ms, parts, bytes);
        if let Err(error) = &entered {
            error!(%error, "Record read out of order; ignoring it.");
        }
        entered.is_ok()
    }

    pub(super) fn complete(&mut self, generation: u64, offset: i64) -> bool {
        let completion = self.ledger.complete(generation, offset);
        if completion == Completion::Unknown {
            error!(offset, "Delivery finished for a record that is not open; ignoring it.");
        }
        completion == Completion::Counted
    }

    /// Advances to the frontier, but not past `limit`, the first record with a row in a later transaction.
    pub(super) fn advance(&self, partition: i32, limit: Option<i64>) -> Option<Advance> {
        let frontier = self.ledger.frontier();
        let next = limit.map_or(frontier, |limit| limit.min(frontier));
        // The ledger does not have the time of a record before `limit` any more. The frontier's is close enough for
        // lag.
        let record_time_ms = self.ledger.frontier_time_ms();
        (next > self.committed).then(|| Advance { next, record_time_ms, ..self.fence(partition) })
    }

    /// Advances to the same offset: the transaction commits only under this epoch.
    pub(super) fn fence(&self, partition: i32) -> Advance {
        Advance {
            topic: self.topic.clone(),
            partition,
            epoch: self.epoch,
            expected: self.committed,
            next: self.committed,
            record_time_ms: None,
        }
    }
}
