//! One partition at the desk, under one assignment.

use std::sync::Arc;

use platform::fence::{Advance, Claim};
use platform::kafka::consumer::Reached;
use tracing::error;

use super::{Before, Scheduled};
use crate::delivery::Delivery;
use crate::ledger::{Completion, Ledger};

#[derive(Debug)]
pub(super) struct Lane {
    topic: Arc<str>,
    pub(super) epoch: i64,
    pub(super) log_epoch: i32,
    pub(super) ledger: Ledger,
    /// Append time of the last record before this assignment, if it is known.
    record_time_ms: Option<i64>,
    /// What the position is in the database.
    pub(super) committed: i64,
    /// Deliveries ahead of the position that were scheduled before this assignment.
    scheduled: Scheduled,
}

impl Lane {
    pub(super) fn new(generation: u64, claim: &Claim, before: Before) -> Self {
        let ledger = Ledger::new(generation, claim.next_offset);
        let Before { scheduled, record_time_ms } = before;
        Self {
            topic: claim.topic.clone(),
            epoch: claim.epoch,
            log_epoch: claim.log_epoch,
            ledger,
            record_time_ms,
            committed: claim.next_offset,
            scheduled,
        }
    }

    pub(super) fn reached(&self) -> Reached {
        let last_done_ms = self.ledger.frontier_time_ms().or(self.record_time_ms);
        Reached { next_offset: self.committed, open_since_ms: self.ledger.open_since_ms(), last_done_ms }
    }

    /// Whether a row of an earlier assignment answers for this delivery of this record.
    pub(super) fn is_scheduled(&mut self, delivery: &Delivery) -> bool {
        self.scheduled.take(delivery)
    }

    /// `false`: the record was read before, and is done or under way.
    pub(super) fn enter(&mut self, offset: i64, timestamp_ms: Option<i64>, parts: usize, bytes: usize) -> bool {
        match self.ledger.enter(offset, timestamp_ms, parts, bytes) {
            Ok(()) => true,
            Err(out_of_order) => {
                error!(%out_of_order, "A record came out of order and was left out.");
                false
            }
        }
    }

    pub(super) fn complete(&mut self, generation: u64, offset: i64) -> bool {
        match self.ledger.complete(generation, offset) {
            Completion::Counted => true,
            Completion::Stale => false,
            Completion::Unknown => {
                error!(offset, "A record was completed that is not open.");
                false
            }
        }
    }

    /// As far as everything is done, but not past `limit`, the first record with a row that is not in the same
    /// transaction.
    pub(super) fn next_move(&self, partition: i32, limit: Option<i64>) -> Option<Advance> {
        let frontier = self.ledger.frontier();
        let next = limit.map_or(frontier, |limit| limit.min(frontier));
        // What lies before a limit is not in the ledger any more, nor its time. Nothing there is younger than the
        // youngest before the frontier; a time that is too low would make the log look as if it had lost its end.
        let record_time_ms = self.ledger.frontier_time_ms();
        (next > self.committed).then(|| Advance { next, record_time_ms, ..self.stay(partition) })
    }

    /// A move that goes nowhere and yet holds only under this epoch.
    pub(super) fn stay(&self, partition: i32) -> Advance {
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
