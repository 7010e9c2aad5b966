//! The keys that this process knows: who they are, since when that is checked, and which are known to be none.
//!
//! Filling it lives in `auth`, keeping it true in `watch`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use schemas::ids::{KeyId, OrgId};
use time::OffsetDateTime;

use crate::caller::Caller;
use crate::key::KeyHash;

/// Bounds of the cache, and how long what it says holds.
#[derive(Debug, Clone, Copy)]
pub struct CacheSettings {
    /// Keys remembered at most.
    pub max_keys: u64,
    /// Bad keys remembered at most.
    pub max_unknown: u64,
    /// After this a key is read again, though nothing was heard of a change.
    pub fresh_for: Duration,
    /// A key that could not be read again (PostgreSQL out of reach) serves for so long.
    pub serve_for: Duration,
    /// How long a bad key is refused without another look-up.
    pub unknown_for: Duration,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            max_keys: 100_000,
            max_unknown: 10_000,
            fresh_for: Duration::from_secs(300),
            serve_for: Duration::from_secs(3_600),
            unknown_for: Duration::from_secs(5),
        }
    }
}

/// A key that was valid when it was last read.
#[derive(Debug)]
pub(crate) struct Cached {
    /// Who calls with it.
    pub caller: Caller,
    /// When it ends by itself.
    pub expires_at: Option<OffsetDateTime>,
    /// When it was last read.
    pub checked_at: Instant,
}

/// Both caches. What was read before a change must not be stored after it was heard of: `generation` tells.
pub(crate) struct KeyCache {
    known: Cache<KeyHash, Arc<Cached>>,
    unknown: Cache<KeyHash, ()>,
    generation: AtomicU64,
    fresh_for: Duration,
}

/// What the generation was before a read. See [`KeyCache::store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl KeyCache {
    pub(crate) fn new(settings: &CacheSettings) -> Self {
        Self {
            known: Cache::builder().max_capacity(settings.max_keys).time_to_live(settings.serve_for).build(),
            unknown: Cache::builder().max_capacity(settings.max_unknown).time_to_live(settings.unknown_for).build(),
            generation: AtomicU64::new(0),
            fresh_for: settings.fresh_for,
        }
    }

    /// The key of that hash, if it is known.
    pub(crate) fn get(&self, hash: &KeyHash) -> Option<Arc<Cached>> {
        self.known.get(hash)
    }

    /// Whether that hash was lately found to be no key.
    pub(crate) fn is_unknown(&self, hash: &KeyHash) -> bool {
        self.unknown.contains_key(hash)
    }

    /// To be taken before reading what is to be stored.
    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::SeqCst))
    }

    /// What was read before this is not stored any more.
    pub(crate) fn raise_generation(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Stores what was read, unless a change was heard of since `before`: then it is to be read again. Answers whether
    /// it is stored.
    pub(crate) fn store(&self, hash: KeyHash, cached: Arc<Cached>, before: Generation) -> bool {
        self.known.insert(hash, cached);
        // Looked at after storing: whoever raises it after this forgets the entry itself.
        let is_true = self.generation() == before;
        if !is_true {
            self.known.invalidate(&hash);
        }
        is_true
    }

    /// Remembers for a short time that this is no key.
    pub(crate) fn store_unknown(&self, hash: KeyHash) {
        self.unknown.insert(hash, ());
    }

    /// Forgets that something was no key: it has just become one.
    pub(crate) fn forget_unknown(&self, hash: &KeyHash) {
        self.unknown.invalidate(hash);
    }

    pub(crate) fn forget_key(&self, key_id: KeyId) {
        self.forget_where(|caller| caller.key_id == key_id);
    }

    /// Forgets all keys of an organization.
    pub(crate) fn forget_organization(&self, org_id: OrgId) {
        self.forget_where(|caller| caller.org_id == org_id);
    }

    /// Changes are rare and the cache is bounded, so a walk is cheaper than a second index.
    fn forget_where(&self, gone: impl Fn(&Caller) -> bool) {
        self.raise_generation();
        for (hash, cached) in &self.known {
            if gone(&cached.caller) {
                self.known.invalidate(&*hash);
            }
        }
    }

    /// What is cached, for reading it again: everything, or what is no longer fresh at `now`.
    pub(crate) fn entries(&self, which: Which, now: Instant) -> Vec<(KeyHash, KeyId)> {
        let wanted = |cached: &Cached| match which {
            Which::All => true,
            Which::Aging => now.saturating_duration_since(cached.checked_at) >= self.fresh_for,
        };
        self.known
            .iter()
            .filter(|(_, cached)| wanted(cached))
            .map(|(hash, cached)| (*hash, cached.caller.key_id))
            .collect()
    }

    /// Forgets one entry that turned out to be no key any more.
    pub(crate) fn forget(&self, hash: &KeyHash) {
        self.known.invalidate(hash);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// Those read longest ago.
    Aging,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::Role;

    fn cached(now: Instant) -> Arc<Cached> {
        let caller = Caller {
            org_id: OrgId::generate(),
            key_id: KeyId::generate(),
            role: Role::Admin,
            event_types: None,
            content_dedup: false,
        };
        Arc::new(Cached { caller, expires_at: None, checked_at: now })
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let cache = KeyCache::new(&CacheSettings::default());
        let (hash, entry) = (KeyHash::of("a"), cached(Instant::now()));
        let before = cache.generation();
        cache.forget_key(entry.caller.key_id);
        assert!(!cache.store(hash, Arc::clone(&entry), before));
        assert!(cache.get(&hash).is_none());
        assert!(cache.store(hash, entry, cache.generation()));
        assert!(cache.get(&hash).is_some());
    }

    #[test]
    fn a_change_makes_only_its_own_keys_forgotten() {
        let cache = KeyCache::new(&CacheSettings::default());
        let entries = ["a", "b", "c"].map(|text| (KeyHash::of(text), cached(Instant::now())));
        for (hash, entry) in &entries {
            cache.store(*hash, Arc::clone(entry), cache.generation());
        }
        cache.forget_key(entries[0].1.caller.key_id);
        cache.forget_organization(entries[1].1.caller.org_id);
        let left = entries.each_ref().map(|(hash, _)| cache.get(hash).is_some());
        assert_eq!(left, [false, false, true]);
    }

    #[test]
    fn an_entry_ages() {
        let settings = CacheSettings::default();
        let cache = KeyCache::new(&settings);
        let now = Instant::now();
        cache.store(KeyHash::of("a"), cached(now), cache.generation());
        assert_eq!(cache.entries(Which::Aging, now).len(), 0);
        assert_eq!(cache.entries(Which::Aging, now + settings.fresh_for).len(), 1);
        assert_eq!(cache.entries(Which::All, now).len(), 1);
    }
}
