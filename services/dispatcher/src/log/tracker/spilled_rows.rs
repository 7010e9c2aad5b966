//! Rows that wait for their transaction. Pure.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

use uuid::Uuid;

use crate::lane::EndpointLane;
use crate::retry::schedule::NewRow;

/// Rows in the order in which they were spilled.
#[derive(Debug, Default)]
pub(super) struct SpilledRows {
    rows: VecDeque<NewRow>,
    bytes: usize,
    /// How many rows each lane has here.
    lanes: HashMap<EndpointLane, usize>,
}

impl SpilledRows {
    pub(super) fn push(&mut self, row: NewRow) {
        self.bytes += row.size();
        if let Some(lane) = row.delivery.endpoint_lane() {
            *self.lanes.entry(lane).or_default() += 1;
        }
        self.rows.push_back(row);
    }

    /// Whether a row of the lane is here.
    pub(super) fn has_lane(&self, lane: EndpointLane) -> bool {
        self.lanes.contains_key(&lane)
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
        for lane in taken.iter().filter_map(|row| row.delivery.endpoint_lane()) {
            if let Entry::Occupied(mut rows) = self.lanes.entry(lane) {
                *rows.get_mut() -= 1;
                if *rows.get() == 0 {
                    rows.remove();
                }
            }
        }
        taken
    }

    pub(super) fn drop_partition(&mut self, partition: i32) {
        self.rows.retain(|row| row.delivery.event.partition != partition);
        self.bytes = self.rows.iter().map(NewRow::size).sum();
        self.lanes.clear();
        for lane in self.rows.iter().filter_map(|row| row.delivery.endpoint_lane()) {
            *self.lanes.entry(lane).or_default() += 1;
        }
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
