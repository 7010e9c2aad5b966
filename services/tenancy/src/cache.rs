//! Cache of API keys: valid keys with the time of their last check, and recent unknown keys.
//!
//! `auth` fills it; `watch` invalidates it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use schemas::ids::{KeyId, OrgId};
use time::OffsetDateTime;

use crate::caller::Caller;
use crate::key::KeyHash;

/// Size and expiry of the cache.
#[derive(Debug, Clone, Copy)]
pub struct CacheSettings {
    /// Valid keys cached at most.
    pub max_keys: u64,
    /// Unknown keys cached at most.
    pub max_unknown: u64,
    /// After this a key is read again, even without a notification of a change.
    pub fresh_for: Duration,
    /// How long a key stays valid that cannot be read again, because PostgreSQL does not answer.
    pub serve_for: Duration,
    /// How long an unknown key is refused without another lookup.
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
pub(crate) struct Cached {
    pub caller: Caller,
    pub expires_at: Option<OffsetDateTime>,
    /// When it was last read.
    pub checked_at: Instant,
}

/// Both caches. `generation` prevents that a key read before a change is stored after the change was applied.
pub(crate) struct KeyCache {
    known: Cache<KeyHash, Arc<Cached>>,
    unknown: Cache<KeyHash, ()>,
    /// Keys that were known before a change.
    changed: Cache<KeyHash, ()>,
    generation: AtomicU64,
    fresh_for: Duration,
}

/// The generation before a read. See [`KeyCache::store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl KeyCache {
    pub(crate) fn new(settings: &CacheSettings) -> Self {
        Self {
            known: Cache::builder().max_capacity(settings.max_keys).time_to_live(settings.serve_for).build(),
            unknown: Cache::builder().max_capacity(settings.max_unknown).time_to_live(settings.unknown_for).build(),
            changed: Cache::builder().max_capacity(settings.max_unknown).time_to_live(settings.serve_for).build(),
            generation: AtomicU64::new(0),
            fresh_for: settings.fresh_for,
        }
    }

    pub(crate) fn get(&self, hash: &KeyHash) -> Option<Arc<Cached>> {
        self.known.get(hash)
    }

    /// Whether this was a key when this process read it last, before it was changed or revoked.
    pub(crate) fn was_known(&self, hash: &KeyHash) -> bool {
        self.changed.contains_key(hash)
    }

    /// Whether a recent lookup found no key with this hash.
    pub(crate) fn is_unknown(&self, hash: &KeyHash) -> bool {
        self.unknown.contains_key(hash)
    }

    /// Must be read before the query whose result is stored.
    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::SeqCst))
    }

    /// Results of queries that started before this are not stored.
    pub(crate) fn raise_generation(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Stores a key, unless the generation changed since `before`. Returns whether it is stored; if not, the caller
    /// reads it again.
    pub(crate) fn store(&self, hash: KeyHash, cached: Arc<Cached>, before: Generation) -> bool {
        self.known.insert(hash, cached);
        // Checked after the insert: a later change of the generation is followed by an invalidation of the entry.
        let is_current = self.generation() == before;
        if !is_current {
            self.invalidate(&hash);
        }
        is_current
    }

    /// Caches for a short time that there is no such key.
    pub(crate) fn store_unknown(&self, hash: KeyHash) {
        self.unknown.insert(hash, ());
    }

    /// Removes a hash from the unknown keys, because it is a key now.
    pub(crate) fn remove_unknown(&self, hash: &KeyHash) {
        self.unknown.invalidate(hash);
    }

    pub(crate) fn invalidate_key(&self, key_id: KeyId) {
        self.invalidate_where(|caller| caller.key_id == key_id);
    }

    /// Invalidates all keys of an organization.
    pub(crate) fn invalidate_organization(&self, org_id: OrgId) {
        self.invalidate_where(|caller| caller.org_id == org_id);
    }

    /// Changes are rare and the cache is bounded, so a scan is cheaper than a second index.
    fn invalidate_where(&self, matches: impl Fn(&Caller) -> bool) {
        self.raise_generation();
        for (hash, cached) in &self.known {
            if matches(&cached.caller) {
                self.invalidate(&hash);
            }
        }
    }

    /// Cached keys to read again: all, or those that are no longer fresh at `now`.
    pub(crate) fn entries(&self, filter: EntryFilter, now: Instant) -> Vec<(KeyHash, KeyId)> {
        let wanted = |cached: &Cached| match filter {
            EntryFilter::All => true,
            EntryFilter::Stale => now.saturating_duration_since(cached.checked_at) >= self.fresh_for,
        };
        self.known
            .iter()
            .filter(|(_, cached)| wanted(cached))
            .map(|(hash, cached)| (*hash, cached.caller.key_id))
            .collect()
    }

    pub(crate) fn invalidate(&self, hash: &KeyHash) {
        self.changed.insert(*hash, ());
        self.known.invalidate(hash);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryFilter {
    All,
    /// Not read for `fresh_for`.
    Stale,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cached(now: Instant) -> Arc<Cached> {
        Arc::new(Cached { caller: Caller::unlimited(OrgId::generate()), expires_at: None, checked_at: now })
    }

    #[test]
    fn a_key_read_before_a_change_is_not_stored_after_it() {
        let cache = KeyCache::new(&CacheSettings::default());
        let (hash, entry) = (KeyHash::of("a"), cached(Instant::now()));
        let before = cache.generation();
        cache.invalidate_key(entry.caller.key_id);
        assert!(!cache.store(hash, Arc::clone(&entry), before));
        assert!(cache.get(&hash).is_none());
        assert!(cache.store(hash, entry, cache.generation()));
        assert!(cache.get(&hash).is_some());
    }

    #[test]
    fn a_change_invalidates_only_its_own_keys() {
        let cache = KeyCache::new(&CacheSettings::default());
        let entries = ["a", "b", "c"].map(|text| (KeyHash::of(text), cached(Instant::now())));
        for (hash, entry) in &entries {
            cache.store(*hash, Arc::clone(entry), cache.generation());
        }
        cache.invalidate_key(entries[0].1.caller.key_id);
        cache.invalidate_organization(entries[1].1.caller.org_id);
        let left = entries.each_ref().map(|(hash, _)| cache.get(hash).is_some());
        assert_eq!(left, [false, false, true]);
    }

    #[test]
    fn an_entry_becomes_stale() {
        let settings = CacheSettings::default();
        let cache = KeyCache::new(&settings);
        let now = Instant::now();
        cache.store(KeyHash::of("a"), cached(now), cache.generation());
        assert_eq!(cache.entries(EntryFilter::Stale, now).len(), 0);
        assert_eq!(cache.entries(EntryFilter::Stale, now + settings.fresh_for).len(), 1);
        assert_eq!(cache.entries(EntryFilter::All, now).len(), 1);
    }
}
