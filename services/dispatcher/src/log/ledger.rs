//! The ledger of one partition under one assignment: which records are finished, in any order, and the offset before
//! which all are.
//!
//! Pure. Each record has parts: its deliveries. `tracker` decides what happens when the ledger is full.

use std::collections::VecDeque;

/// The ledger is full with so many records from the frontier to the last one read.
pub(crate) const MAX_RECORDS: usize = 40_000;
/// The ledger is full with open records of so many bytes.
pub(crate) const MAX_BYTES: usize = 32 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completion {
    Counted,
    /// It belongs to an earlier assignment of the partition.
    Stale,
    /// The record has no open part: a bug.
    Unknown,
}

/// A record that was read again or out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("offset {offset} was read after offset {last}")]
pub(crate) struct OutOfOrder {
    pub offset: i64,
    pub last: i64,
}

#[derive(Debug)]
struct LedgerEntry {
    offset: i64,
    timestamp_ms: Option<i64>,
    open_parts: usize,
    bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    generation: u64,
    /// From the first record with an open part to the last one read.
    entries: VecDeque<LedgerEntry>,
    /// One past the last record read.
    next: i64,
    open_bytes: usize,
    /// Append time of the last record before the frontier.
    frontier_time_ms: Option<i64>,
}

impl Ledger {
    /// An empty ledger from `position` on. `generation` distinguishes this assignment from earlier ones.
    pub(crate) fn new(generation: u64, position: i64) -> Self {
        Self { generation, entries: VecDeque::new(), next: position, open_bytes: 0, frontier_time_ms: None }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_RECORDS || self.open_bytes >= MAX_BYTES
    }

    /// Records from the frontier to the last one read.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Enters a record with so many open parts; without parts it is finished. Gaps between offsets are normal.
    ///
    /// # Errors
    /// If its offset is not greater than the last one.
    pub(crate) fn enter(
        &mut self,
        offset: i64,
        timestamp_ms: Option<i64>,
        parts: usize,
        bytes: usize,
    ) -> Result<(), OutOfOrder> {
        if offset < self.next {
            return Err(OutOfOrder { offset, last: self.next - 1 });
        }
        self.next = offset + 1;
        let bytes = if parts == 0 { 0 } else { bytes };
        self.open_bytes += bytes;
        self.entries.push_back(LedgerEntry { offset, timestamp_ms, open_parts: parts, bytes });
        self.shrink();
        Ok(())
    }

    /// Completes one part of the record at `offset`.
    pub(crate) fn complete(&mut self, generation: u64, offset: i64) -> Completion {
        if generation != self.generation {
            return Completion::Stale;
        }
        let Ok(index) = self.entries.binary_search_by_key(&offset, |entry| entry.offset) else {
            return Completion::Unknown;
        };
        let Some(entry) = self.entries.get_mut(index).filter(|entry| entry.open_parts > 0) else {
            return Completion::Unknown;
        };
        entry.open_parts -= 1;
        if entry.open_parts == 0 {
            self.open_bytes -= std::mem::take(&mut entry.bytes);
            self.shrink();
        }
        Completion::Counted
    }

    /// The offset before which all records are finished: the position that may be committed.
    pub(crate) fn frontier(&self) -> i64 {
        self.entries.front().map_or(self.next, |entry| entry.offset)
    }

    /// Append time of the last record before the frontier, milliseconds since the Unix epoch; `None` before the first.
    pub(crate) fn frontier_time_ms(&self) -> Option<i64> {
        self.frontier_time_ms
    }

    /// Append time of the first unfinished record, milliseconds since the Unix epoch; `None`: all are finished.
    pub(crate) fn open_since_ms(&self) -> Option<i64> {
        self.entries.front().and_then(|entry| entry.timestamp_ms)
    }

    fn shrink(&mut self) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.open_parts == 0) {
            self.frontier_time_ms = entry.timestamp_ms.or(self.frontier_time_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_marker_does_not_change_the_frontiers_time() {
        let mut ledger = Ledger::new(1, 0);
        for (offset, time_ms, expected) in
            [(0, None, None), (1, Some(500), Some(500)), (2, Some(400), Some(400)), (3, None, Some(400))]
        {
            ledger.enter(offset, time_ms, 0, 1).unwrap();
            assert_eq!(ledger.frontier_time_ms(), expected);
        }
    }

    #[test]
    fn the_frontier_waits_for_the_oldest_open_part() {
        let mut ledger = Ledger::new(1, 10);
        assert_eq!((ledger.frontier(), ledger.frontier_time_ms()), (10, None));
        for (offset, parts) in [(10, 2), (11, 1), (13, 0), (14, 1)] {
            ledger.enter(offset, Some(offset * 100), parts, 5).unwrap();
        }
        assert_eq!(ledger.complete(1, 11), Completion::Counted);
        assert_eq!(ledger.complete(1, 10), Completion::Counted);
        assert_eq!((ledger.frontier(), ledger.open_since_ms()), (10, Some(1000)));
        assert_eq!(ledger.complete(1, 10), Completion::Counted);
        assert_eq!((ledger.frontier(), ledger.frontier_time_ms(), ledger.len()), (14, Some(1300), 1));
        assert_eq!(ledger.open_since_ms(), Some(1400));
        assert_eq!(ledger.complete(1, 14), Completion::Counted);
        assert_eq!((ledger.frontier(), ledger.len(), ledger.open_since_ms()), (15, 0, None));
    }

    #[test]
    fn stale_and_unknown_completions_do_not_count() {
        let mut ledger = Ledger::new(2, 0);
        ledger.enter(0, Some(0), 1, 1).unwrap();
        assert_eq!(ledger.complete(1, 0), Completion::Stale);
        assert_eq!(ledger.complete(2, 1), Completion::Unknown);
        assert_eq!(ledger.frontier(), 0);
        assert_eq!(ledger.complete(2, 0), Completion::Counted);
        assert_eq!(ledger.complete(2, 0), Completion::Unknown);
        assert_eq!(ledger.enter(0, Some(0), 1, 1), Err(OutOfOrder { offset: 0, last: 0 }));
    }

    #[test]
    fn either_bound_fills_it_and_completing_makes_room() {
        let mut ledger = Ledger::new(1, 0);
        ledger.enter(0, Some(0), 1, MAX_BYTES).unwrap();
        assert!(ledger.is_full());
        ledger.complete(1, 0);
        assert!(!ledger.is_full());
        for offset in 1..=MAX_RECORDS as i64 {
            assert!(!ledger.is_full(), "{offset}");
            ledger.enter(offset, Some(0), 1, 1).unwrap();
        }
        assert!(ledger.is_full());
        ledger.complete(1, 1);
        assert!(!ledger.is_full());
    }

    proptest! {
        #[test]
        fn the_frontier_is_the_first_open_record_in_any_order(
            records in prop::collection::vec((1_i64..4, 0_usize..3), 1..40),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..120),
        ) {
            let mut ledger = Ledger::new(1, 0);
            let mut model: Vec<(i64, usize)> = Vec::new();
            let mut offset = 0;
            for (gap, parts) in records {
                offset += gap;
                ledger.enter(offset, Some(offset), parts, 1).unwrap();
                model.push((offset, parts));
            }
            for index in order {
                let (offset, parts) = index.get_mut(&mut model);
                let counted = ledger.complete(1, *offset) == Completion::Counted;
                prop_assert_eq!(counted, *parts > 0);
                *parts = parts.saturating_sub(1);
                let first_open = model.iter().find(|(_, parts)| *parts > 0).map(|(offset, _)| *offset);
                prop_assert_eq!(ledger.frontier(), first_open.unwrap_or(offset_after(&model)));
            }
        }

        /// Attempts end in any order, also after their partition was revoked and assigned again. Then the records are
        /// read again from the committed position, and only completions of the new assignment count.
        #[test]
        fn no_completion_moves_the_position_past_an_open_record(
            steps in prop::collection::vec((0_u8..8, any::<prop::sample::Index>(), 0_usize..3), 1..150),
        ) {
            let (mut generation, mut committed) = (1, 0);
            let mut ledger = Ledger::new(generation, committed);
            // By offset, the open parts of this assignment; and every part that any assignment started.
            let mut model: BTreeMap<i64, usize> = BTreeMap::new();
            let mut started: Vec<(u64, i64)> = Vec::new();
            for (kind, index, parts) in steps {
                match kind {
                    0..=2 => {
                        let offset = model.last_key_value().map_or(committed, |(last, _)| last + 1) + i64::from(kind);
                        ledger.enter(offset, Some(offset), parts, 1).unwrap();
                        started.extend(std::iter::repeat_n((generation, offset), parts));
                        model.insert(offset, parts);
                    }
                    3..=5 if !started.is_empty() => {
                        let (of, offset) = started.swap_remove(index.index(started.len()));
                        let completion = ledger.complete(of, offset);
                        let expected = if of == generation { Completion::Counted } else { Completion::Stale };
                        prop_assert_eq!(completion, expected);
                        if of == generation {
                            model.entry(offset).and_modify(|open| *open -= 1);
                        }
                    }
                    6 => committed = ledger.frontier(),
                    7 => {
                        generation += 1;
                        ledger = Ledger::new(generation, committed);
                        model.clear();
                    }
                    _ => {}
                }
                let first_open = model.iter().find(|(_, parts)| **parts > 0).map(|(offset, _)| *offset);
                let after_all = model.last_key_value().map_or(committed, |(last, _)| last + 1);
                prop_assert_eq!(ledger.frontier(), first_open.unwrap_or(after_all));
                prop_assert!(committed <= ledger.frontier());
            }
        }
    }

    fn offset_after(model: &[(i64, usize)]) -> i64 {
        model.last().unwrap().0 + 1
    }
}
