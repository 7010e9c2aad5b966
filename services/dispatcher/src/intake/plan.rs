//! What one transaction holds. Pure; carrying it through is `commit`'s business.

use platform::fence::Advance;

use crate::rows::{NewRow, Settlement};

/// What one transaction holds. All of it or nothing.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub moves: Vec<Advance>,
    /// Deliveries that leave the desk for the schedule. A position passes a record only with or after its rows.
    pub rows: Vec<NewRow>,
    /// Outcomes of attempts whose rows were scheduled while they were made.
    pub settlements: Vec<Settlement>,
}

impl Plan {
    /// Whether there is nothing to commit.
    pub(crate) fn is_empty(&self) -> bool {
        self.moves.is_empty() && self.rows.is_empty() && self.settlements.is_empty()
    }

    /// Takes a partition out: it belongs to somebody else, who will read its records again.
    pub(crate) fn forget(&mut self, partition: i32) {
        self.moves.retain(|one| one.partition != partition);
        self.rows.retain(|row| row.delivery.event.partition != partition);
    }
}
