//! The content of one transaction. Pure.

use std::collections::HashMap;

use kafka::fence::Advance;

use super::SpillReason;
use crate::acks::Success;
use crate::retry::schedule::{LeasedOutcome, NewRow};

/// The content of one transaction: all of it is committed, or nothing.
#[derive(Debug, Default)]
pub(crate) struct CommitPlan {
    pub advances: Vec<Advance>,
    /// Spilled deliveries. A position advances past a record only with its rows or after them.
    pub rows: Vec<NewRow>,
    /// Outcomes of attempts whose deliveries were spilled while they were in flight.
    pub outcomes: Vec<LeasedOutcome>,
    /// Of deliveries without a row.
    pub successes: Vec<Success>,
    /// How many deliveries were spilled since the last plan, and why. For metrics: their rows may be in a later plan.
    pub spilled: HashMap<SpillReason, u64>,
}

impl CommitPlan {
    pub(crate) fn is_empty(&self) -> bool {
        self.advances.is_empty() && self.rows.is_empty() && self.outcomes.is_empty() && self.successes.is_empty()
    }

    /// Removes the rows of a partition that another instance owns now; that instance reads the records again.
    pub(crate) fn drop_rows(&mut self, partition: i32) {
        self.rows.retain(|row| row.delivery.event.partition != partition);
    }
}
