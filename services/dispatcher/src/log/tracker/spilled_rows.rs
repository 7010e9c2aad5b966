//! Rows that wait for their transaction. Pure.

use std::collections::{HashMap, HashSet, VecDeque};

use uuid::Uuid;

use crate::retry::schedule::NewRow;

/// Rows in the order in which they were spilled.
#[derive(Debug, Default)]
pub(super) struct SpilledRows {
    rows: VecDeque<NewRow>,
    bytes: usize,
}

impl SpilledRows {
    pub(super) fn push(&mut self, row: NewRow) {
        self.bytes += row.size();
        self.rows.push_back(row);
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Removes and returns the first rows, up to `max_bytes` together, but always at least one.
    pub(super) fn take(&mut self, max_bytes: usize) -> Vec<NewRow> {
        let mut taken = Vec::new();
        let mut taken_bytes = 0;
        while let Some(row) = self.rows.pop_front_if(|row| taken.is_empty() || taken_bytes + row.size() <= max_bytes) {
            taken_bytes += row.size();
            taken.push(row);
        }
        self.bytes -= taken_bytes;
        taken
    }

    pub(super) fn drop_partition(&mut self, partition: i32) {
        self.rows.retain(|row| row.delivery.event.partition != partition);
        self.bytes = self.rows.iter().map(NewRow::size).sum();
    }

    /// By partition, the first record that has a row here: no position may advance past it.
    pub(super) fn first_offsets(&self) -> HashMap<i32, i64> {
        let mut first = HashMap::new();
        for event in self.rows.iter().map(|row| &row.delivery.event) {
            let offset = first.entry(event.partition).or_insert(event.offset);
            *offset = event.offset.min(*offset);
        }
        first
    }

    pub(super) fn leases(&self) -> HashSet<Uuid> {
        self.rows.iter().filter_map(NewRow::lease).collect()
    }
}
