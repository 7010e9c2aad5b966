//! What this instance wrote to the log a moment ago, by organization: the memory behind read-your-writes on one
//! instance.
//!
//! Waiting until the view has it is [`crate::fence::PositionWatch`]'s business. Nothing here survives a restart, and
//! nothing needs to.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// How long a write is remembered. A view that is further behind than this is behind for everybody.
const REMEMBERED: Duration = Duration::from_secs(10);
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const SHARDS: usize = 16;
/// Bound of each shard; above it expired entries are dropped, and then the write goes unremembered.
const SHARD_ENTRIES: usize = 8192;

/// Last write of each organization, by partition. Cloning shares it.
#[derive(Clone)]
pub struct RecentWrites {
    shards: Arc<[Mutex<Shard>; SHARDS]>,
    hasher: RandomState,
}

#[derive(Default)]
struct Shard {
    writes: HashMap<Uuid, Vec<Write>>,
    /// When expired entries were last looked for: a full shard must not be searched at every write.
    swept: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Write {
    partition: i32,
    next_offset: i64,
    at: Instant,
}

impl Default for RecentWrites {
    fn default() -> Self {
        Self { shards: Arc::new(std::array::from_fn(|_| Mutex::new(Shard::default()))), hasher: RandomState::new() }
    }
}

impl RecentWrites {
    /// Remembers that the organization's record was appended at `offset` of `partition`.
    pub fn note(&self, organization: Uuid, partition: i32, offset: i64, now: Instant) {
        let mut shard = self.shard(organization);
        if shard.writes.len() >= SHARD_ENTRIES && !shard.writes.contains_key(&organization) && !shard.make_room(now) {
            return;
        }
        // One entry, or two after partitions were added: the expired ones go as new ones come.
        let writes = shard.writes.entry(organization).or_default();
        match writes.iter_mut().find(|write| write.partition == partition) {
            Some(write) => {
                write.next_offset = write.next_offset.max(offset + 1);
                write.at = now;
            }
            None => {
                writes.retain(|write| write.is_recent(now));
                writes.push(Write { partition, next_offset: offset + 1, at: now });
            }
        }
    }

    /// What the view must have reached to show the organization's recent writes: (partition, next offset).
    pub fn last(&self, organization: Uuid, now: Instant) -> Vec<(i32, i64)> {
        let shard = self.shard(organization);
        let writes = shard.writes.get(&organization).map(Vec::as_slice).unwrap_or_default();
        writes.iter().filter(|write| write.is_recent(now)).map(|write| (write.partition, write.next_offset)).collect()
    }

    fn shard(&self, organization: Uuid) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(self.hasher.hash_one(organization) % SHARDS as u64).unwrap_or(0);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn make_room(&mut self, now: Instant) -> bool {
        if self.swept.is_some_and(|at| now.saturating_duration_since(at) < SWEEP_INTERVAL) {
            return false;
        }
        self.swept = Some(now);
        self.writes.retain(|_, writes| writes.iter().any(|write| write.is_recent(now)));
        self.writes.len() < SHARD_ENTRIES
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
    fn the_highest_offset_counts_and_is_forgotten_after_ten_seconds() {
        let writes = RecentWrites::default();
        let (org, start) = (Uuid::from_u128(1), Instant::now());
        writes.note(org, 3, 41, start);
        writes.note(org, 3, 40, start);
        writes.note(org, 5, 7, start);
        assert_eq!(writes.last(org, start), vec![(3, 42), (5, 8)]);
        assert_eq!(writes.last(Uuid::from_u128(2), start), vec![]);
        assert_eq!(writes.last(org, start + REMEMBERED), vec![]);
    }

    #[test]
    fn memory_is_bounded_however_many_organizations_write() {
        let (writes, now) = (RecentWrites::default(), Instant::now());
        for n in 0..(SHARD_ENTRIES * SHARDS * 2) as u128 {
            writes.note(Uuid::from_u128(n), 0, 0, now);
        }
        let kept: usize = writes.shards.iter().map(|shard| shard.lock().unwrap().writes.len()).sum();
        assert!(kept <= SHARD_ENTRIES * SHARDS);
    }
}
