//! Authenticates a presented key. The hot path is one SHA-256 and one map lookup; only keys that are not cached need a
//! query.
//!
//! `watch` invalidates the cache; `extract` has the extractors for handlers.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use crate::bad_keys::BadKeys;
use crate::budgets::OrganizationBudgets;
use crate::cache::{CacheSettings, Cached, KeyCache};
use crate::caller::Caller;
use crate::key::{self, KeyHash};
use crate::keys::{self, FoundKey};
use crate::limits::{LimitSettings, Limits};
use crate::metrics::METRICS;
use crate::refusal::Refusal;
use crate::tenant::Tenants;

/// No key is longer; longer text is refused without hashing it.
const LONGEST_KEY_BYTES: usize = 255;
/// How often one lookup queries, when keys change while it does.
const MAX_READS: u32 = 3;

/// Settings of the authenticator.
#[derive(Debug, Clone, Copy)]
pub struct AuthSettings {
    pub cache: CacheSettings,
    /// Concurrent lookups of keys that are not cached; the rest of the pool is for authenticated requests.
    pub max_lookups: usize,
    /// Lookups that wait for one of these; above it, 503 at once.
    pub max_waiting_lookups: usize,
    /// How long one lookup may take, including the wait for a permit.
    pub lookup_timeout: Duration,
    /// Bad keys per address and minute before 429.
    pub bad_keys_per_minute: u32,
    /// Addresses that bad keys are counted for.
    pub max_bad_addresses: usize,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            cache: CacheSettings::default(),
            max_lookups: 8,
            max_waiting_lookups: 1_000,
            lookup_timeout: Duration::from_secs(2),
            bad_keys_per_minute: 30,
            max_bad_addresses: 10_000,
        }
    }
}

/// Finds the caller of a key. Cloning shares it.
#[derive(Clone)]
pub struct Authenticator(Arc<Inner>);

struct Inner {
    pool: PgPool,
    cache: KeyCache,
    lookups: Semaphore,
    /// For all addresses over their limit of bad keys.
    noisy_lookups: Semaphore,
    /// Lookups of all other addresses, in progress or waiting.
    waiting_lookups: Semaphore,
    lookup_timeout: Duration,
    bad_keys: Mutex<BadKeys>,
    tenants: Tenants,
    limits: Limits,
    /// Development keys in the configuration of this process; only these may have any format.
    development: RwLock<HashSet<KeyHash>>,
}

impl Authenticator {
    /// Starts with an empty cache. Does not connect.
    pub(crate) fn new(
        pool: PgPool,
        settings: &AuthSettings,
        limits: LimitSettings,
        budgets: OrganizationBudgets,
    ) -> Self {
        Self(Arc::new(Inner {
            pool,
            cache: KeyCache::new(&settings.cache),
            lookups: Semaphore::new(settings.max_lookups),
            noisy_lookups: Semaphore::new(1),
            waiting_lookups: Semaphore::new(settings.max_lookups + settings.max_waiting_lookups),
            lookup_timeout: settings.lookup_timeout,
            bad_keys: Mutex::new(BadKeys::new(settings.bad_keys_per_minute, settings.max_bad_addresses)),
            tenants: Tenants::new(budgets),
            limits: Limits::new(limits),
            development: RwLock::new(HashSet::new()),
        }))
    }

    /// The caller of this key. Bad keys are counted for the address `from`.
    ///
    /// # Errors
    /// When the key is not valid, or when PostgreSQL does not answer.
    /// See [`Refusal`].
    pub async fn authenticate(&self, presented: &str, from: IpAddr) -> Result<Caller, Refusal> {
        match self.find(presented, from).await {
            Ok(Some(cached)) if !is_expired(&cached) => Ok(cached.caller.clone()),
            Ok(_) => Err(self.refuse(from)),
            Err(refusal) => Err(refusal),
        }
    }

    async fn find(&self, presented: &str, from: IpAddr) -> Result<Option<Arc<Cached>>, Refusal> {
        if presented.len() > LONGEST_KEY_BYTES {
            return Ok(None);
        }
        let hash = KeyHash::of(presented);
        if let Some(cached) = self.0.cache.get(&hash) {
            return Ok(Some(cached));
        }
        if !self.is_possible(presented, &hash) || self.0.cache.is_unknown(&hash) {
            return Ok(None);
        }
        // Over its limit an address does not take the permits of others: it has one, and does not wait for it.
        let wait = self.0.bad_keys.lock().unwrap_or_else(PoisonError::into_inner).wait(from, Instant::now());
        let _lane = match wait {
            Some(wait) => {
                let Ok(permit) = self.0.noisy_lookups.try_acquire() else { return Err(Refusal::TooMany { wait }) };
                permit
            }
            None => match self.0.waiting_lookups.try_acquire() {
                Ok(permit) => permit,
                Err(_) => {
                    METRICS.unavailable.inc();
                    return Err(Refusal::Unavailable);
                }
            },
        };
        match tokio::time::timeout(self.0.lookup_timeout, self.look_up(presented, hash)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                tracing::warn!(%error, "API key lookup failed; answering 503");
                METRICS.unavailable.inc();
                Err(Refusal::Unavailable)
            }
            Err(_) => {
                tracing::warn!("API key lookup timed out; answering 503");
                METRICS.unavailable.inc();
                Err(Refusal::Unavailable)
            }
        }
    }

    /// Whether a lookup could find it. Other text is refused without a query.
    fn is_possible(&self, presented: &str, hash: &KeyHash) -> bool {
        key::is_well_formed(presented) || self.is_development(hash)
    }

    pub(crate) fn is_development(&self, hash: &KeyHash) -> bool {
        self.0.development.read().unwrap_or_else(PoisonError::into_inner).contains(hash)
    }

    async fn look_up(&self, presented: &str, hash: KeyHash) -> Result<Option<Arc<Cached>>, sqlx::Error> {
        let Ok(_turn) = self.0.lookups.acquire().await else { return Err(sqlx::Error::PoolClosed) };
        // Of concurrent requests with a new key, the first one has stored it for all.
        if let Some(cached) = self.0.cache.get(&hash) {
            return Ok(Some(cached));
        }
        // The same for a key that does not exist.
        if self.0.cache.is_unknown(&hash) {
            return Ok(None);
        }
        let mut reads = 0;
        loop {
            let before = self.0.cache.generation();
            METRICS.lookups.inc();
            let Some(found) = keys::find(&self.0.pool, &key::prefix(presented), &hash).await? else {
                self.0.cache.store_unknown(hash);
                return Ok(None);
            };
            // A key of an earlier configuration, or of another process: not valid in this one.
            if found.is_development && !self.is_development(&hash) {
                return Ok(None);
            }
            let cached = Arc::new(self.cached(found, Instant::now()));
            reads += 1;
            // If keys change faster than this loop queries, the key is used for this request and not cached.
            if self.0.cache.store(hash, Arc::clone(&cached), before) || reads == MAX_READS {
                return Ok(Some(cached));
            }
        }
    }

    /// The cache entry of a key that was read at `read_at`.
    pub(crate) fn cached(&self, found: FoundKey, read_at: Instant) -> Cached {
        found.into_cached(read_at, &self.0.tenants, &self.0.limits)
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    fn refuse(&self, from: IpAddr) -> Refusal {
        METRICS.refused.inc();
        let wait = self.0.bad_keys.lock().unwrap_or_else(PoisonError::into_inner).count(from, Instant::now());
        wait.map_or(Refusal::Unknown, |wait| Refusal::TooMany { wait })
    }

    /// Accepts these development keys in this process.
    pub(crate) fn allow_development(&self, hashes: impl IntoIterator<Item = KeyHash>) {
        let mut allowed = self.0.development.write().unwrap_or_else(PoisonError::into_inner);
        for hash in hashes {
            // It may have been refused, and cached as unknown, before.
            self.0.cache.remove_unknown(&hash);
            allowed.insert(hash);
        }
    }

    pub(crate) fn cache(&self) -> &KeyCache {
        &self.0.cache
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.0.pool
    }
}

fn is_expired(cached: &Cached) -> bool {
    cached.expires_at.is_some_and(|end| end <= OffsetDateTime::now_utc())
}
