//! Rows that wait for their transaction. Pure.

use std::collections::{HashMap, HashSet, VecDeque};

use uuid::Uuid;

use crate::rows::NewRow;

/// Rows in the order in which they were spilled.
#[derive(Debug, Default)]
pub(super) struct Spilled {
    rows: VecDeque<NewRow>,
    bytes: usize,
}

impl Spilled {
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

    /// Takes the first rows out, of at most so many bytes together; one in any case, or nothing would ever go on.
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

    /// Forgets the rows of a partition.
    pub(super) fn forget(&mut self, partition: i32) {
        self.rows.retain(|row| row.delivery.event.partition != partition);
        self.bytes = self.rows.iter().map(NewRow::size).sum();
    }

    /// The first record of each partition that has a row here: no position may pass it.
    pub(super) fn first_offsets(&self) -> HashMap<i32, i64> {
        let mut first = HashMap::new();
        for event in self.rows.iter().map(|row| &row.delivery.event) {
            first
                .entry(event.partition)
                .and_modify(|offset: &mut i64| *offset = event.offset.min(*offset))
                .or_insert(event.offset);
        }
        first
    }

    pub(super) fn leases(&self) -> HashSet<Uuid> {
        self.rows.iter().filter_map(NewRow::lease).collect()
    }
}
