//! The recent writes of this instance, which it must be able to read: per writer, the last offset in each partition.
//!
//! Ingest notes them, the inbox waits for them, and slices never import each other; so this is in `kafka`. It
//! knows only a key (who wrote) and offsets. Waiting until the view shows them is [`crate::fence::PositionsPoller`]'s
//! part. Nothing here survives a restart, and nothing needs to.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use uuid::Uuid;

/// How long a write is remembered. A view that is further behind than this is behind for everybody.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Writers remembered at most. Beyond it the least recently used one is forgotten.
const MAX_WRITERS: u64 = 131_072;

/// The last writes of each writer. Cloning shares them.
#[derive(Clone)]
pub struct RecentWrites {
    // Changed in place: replacing a value of the cache costs several times as much, at every accepted event.
    by_writer: Cache<Uuid, Arc<Mutex<Vec<Write>>>>,
}

#[derive(Clone, Copy)]
struct Write {
    partition: i32,
    next_offset: i64,
    at: Instant,
}

impl Default for RecentWrites {
    fn default() -> Self {
        let by_writer = Cache::builder()
            .max_capacity(MAX_WRITERS)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(REMEMBERED)
            .build();
        Self { by_writer }
    }
}

impl RecentWrites {
    /// Remembers that `writer` appended a record at `offset` of `partition`.
    pub fn note(&self, writer: Uuid, partition: i32, offset: i64, now: Instant) {
        let writes = self.by_writer.get_with(writer, Arc::default);
        let mut writes = writes.lock().unwrap_or_else(PoisonError::into_inner);
        match writes.iter_mut().find(|write| write.partition == partition) {
            Some(write) => {
                write.next_offset = write.next_offset.max(offset + 1);
                write.at = now;
            }
            None => writes.push(Write { partition, next_offset: offset + 1, at: now }),
        }
        // Usually one is left; two after partitions were added, until the older one expires.
        writes.retain(|write| write.is_recent(now));
    }

    /// Where the view must be to show the recent writes of `writer`: (partition, next offset).
    pub fn last(&self, writer: Uuid, now: Instant) -> Vec<(i32, i64)> {
        let Some(writes) = self.by_writer.get(&writer) else { return Vec::new() };
        let writes = writes.lock().unwrap_or_else(PoisonError::into_inner);
        writes.iter().filter(|write| write.is_recent(now)).map(|write| (write.partition, write.next_offset)).collect()
    }
}

impl Write {
    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < REMEMBERED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_offset_counts_and_is_forgotten_after_10_s() {
        let writes = RecentWrites::default();
        let (writer, start) = (Uuid::from_u128(1), Instant::now());
        writes.note(writer, 3, 41, start);
        writes.note(writer, 3, 40, start);
        writes.note(writer, 5, 7, start);
        assert_eq!(writes.last(writer, start), vec![(3, 42), (5, 8)]);
        assert_eq!(writes.last(Uuid::from_u128(2), start), vec![]);
        assert_eq!(writes.last(writer, start + REMEMBERED), vec![]);
    }

    #[test]
    fn a_partition_is_forgotten_while_its_writer_goes_on_elsewhere() {
        let writes = RecentWrites::default();
        let (writer, start) = (Uuid::from_u128(1), Instant::now());
        writes.note(writer, 3, 41, start);
        let later = start + REMEMBERED / 2;
        writes.note(writer, 5, 7, later);
        assert_eq!(writes.last(writer, later), vec![(3, 42), (5, 8)]);
        assert_eq!(writes.last(writer, start + REMEMBERED), vec![(5, 8)]);
        writes.note(writer, 5, 8, start + REMEMBERED);
        assert_eq!(
            writes.by_writer.get(&writer).map(|writes| writes.lock().unwrap().len()),
            Some(1),
            "the expired write takes no room"
        );
    }

    #[test]
    fn memory_is_bounded_and_the_newest_writers_are_kept() {
        let (writes, now) = (RecentWrites::default(), Instant::now());
        for n in 0..u128::from(MAX_WRITERS * 2) {
            writes.note(Uuid::from_u128(n), 0, 0, now);
        }
        writes.by_writer.run_pending_tasks();
        assert!(writes.by_writer.entry_count() <= MAX_WRITERS);
        let newest = Uuid::from_u128(u128::from(MAX_WRITERS * 2 - 1));
        assert_eq!(writes.last(newest, now), vec![(0, 1)]);
    }
}
