//! What one transaction holds. Pure; carrying it through is `commit`'s business.

use crate::rows::{NewRow, Settlement};

/// Moves one partition's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Partition.
    pub partition: i32,
    /// Epoch of the claim.
    pub epoch: i64,
    /// Where the position stands.
    pub expected: i64,
    /// Where it stands afterwards.
    pub next: i64,
    /// About when the last record that is passed was appended, milliseconds since the Unix epoch.
    pub record_time_ms: Option<i64>,
}

/// What one transaction holds. All of it or nothing.
#[derive(Debug, Default)]
pub struct Plan {
    /// Positions.
    pub moves: Vec<Move>,
    /// Deliveries that leave the desk for the schedule. A position passes a record only with or after its rows.
    pub rows: Vec<NewRow>,
    /// Outcomes of attempts whose rows were scheduled while they were made.
    pub settlements: Vec<Settlement>,
}

impl Plan {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty() && self.rows.is_empty() && self.settlements.is_empty()
    }

    /// Takes a partition out: it belongs to somebody else, who will read its records again.
    pub fn forget(&mut self, partition: i32) {
        self.moves.retain(|one| one.partition != partition);
        self.rows.retain(|row| row.delivery.event.partition != partition);
    }
}
