//! Authenticates a presented key. The hot path is one SHA-256 and one map lookup; only keys that are not cached need a
//! query.
//!
//! `watch` invalidates the cache; `extract` has the extractors for handlers.

use std::collections::{HashMap, HashSet};
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
use crate::noisy::NoisyLookups;
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

/// A key that is valid or expired; `None`: there is no such key, or it is revoked.
pub(crate) type Found = Option<Arc<Cached>>;

/// A key that is looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    pub prefix: String,
    pub hash: KeyHash,
}

/// Finds the caller of a key. Cloning shares it.
#[derive(Clone)]
pub struct Authenticator(Arc<Inner>);

struct Inner {
    pool: PgPool,
    cache: KeyCache,
    lookups: Semaphore,
    /// Those of addresses over their limit of bad keys.
    noisy: NoisyLookups,
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
            noisy: NoisyLookups::new(),
            waiting_lookups: Semaphore::new(settings.max_lookups + settings.max_waiting_lookups),
            lookup_timeout: settings.lookup_timeout,
            bad_keys: Mutex::new(BadKeys::new(settings.bad_keys_per_minute, settings.max_bad_addresses)),
            tenants: Tenants::new(budgets),
            limits: Limits::new(limits),
            development: RwLock::new(HashSet::new()),
        }))
    }

    /// The caller of this key. Unknown keys are counted for the address `from`.
    ///
    /// # Errors
    /// When the key is not valid, or when PostgreSQL does not answer.
    /// See [`Refusal`].
    pub async fn authenticate(&self, presented: &str, from: IpAddr) -> Result<Caller, Refusal> {
        if presented.len() > LONGEST_KEY_BYTES {
            return Err(self.refuse(from));
        }
        let hash = KeyHash::of(presented);
        match self.find(presented, hash, from).await? {
            Some(cached) if !is_expired(&cached) => Ok(cached.caller.clone()),
            // Its client knew a key: this is no guess.
            Some(_) => Err(Self::refuse_uncounted()),
            None if self.0.cache.was_known(&hash) => Err(Self::refuse_uncounted()),
            None => Err(self.refuse(from)),
        }
    }

    async fn find(&self, presented: &str, hash: KeyHash, from: IpAddr) -> Result<Found, Refusal> {
        if let Some(cached) = self.0.cache.get(&hash) {
            return Ok(Some(cached));
        }
        if !self.is_possible(presented, &hash) || self.0.cache.is_unknown(&hash) {
            return Ok(None);
        }
        let wanted = Wanted { prefix: key::prefix(presented), hash };
        let wait = self.0.bad_keys.lock().unwrap_or_else(PoisonError::into_inner).wait(from, Instant::now());
        // Over its limit an address does not take the permits of others.
        if let Some(wait) = wait.filter(|_| !self.0.cache.was_known(&hash)) {
            let answered = self.0.noisy.push(from, wanted).ok_or(Refusal::TooMany { wait })?;
            let answer = tokio::time::timeout(self.0.lookup_timeout, answered).await;
            return answer.ok().and_then(Result::ok).flatten().ok_or_else(unavailable);
        }
        let _waiting = self.0.waiting_lookups.try_acquire().map_err(|_| unavailable())?;
        self.in_time(self.look_up(wanted)).await
    }

    async fn in_time<T>(&self, lookup: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Refusal> {
        match tokio::time::timeout(self.0.lookup_timeout, lookup).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => tracing::warn!(%error, "API key lookup failed; answering 503"),
            Err(_) => tracing::warn!("API key lookup timed out; answering 503"),
        }
        Err(unavailable())
    }

    /// Whether a lookup could find it. Other text is refused without a query.
    fn is_possible(&self, presented: &str, hash: &KeyHash) -> bool {
        key::is_well_formed(presented) || self.is_development(hash)
    }

    pub(crate) fn is_development(&self, hash: &KeyHash) -> bool {
        self.0.development.read().unwrap_or_else(PoisonError::into_inner).contains(hash)
    }

    async fn look_up(&self, wanted: Wanted) -> Result<Found, sqlx::Error> {
        let Ok(_turn) = self.0.lookups.acquire().await else { return Err(sqlx::Error::PoolClosed) };
        // Of concurrent requests with a new key, the first one has stored it for all.
        if let Some(cached) = self.0.cache.get(&wanted.hash) {
            return Ok(Some(cached));
        }
        // The same for a key that does not exist.
        if self.0.cache.is_unknown(&wanted.hash) {
            return Ok(None);
        }
        let mut found = self.look_up_all(std::slice::from_ref(&wanted)).await?;
        Ok(found.remove(&wanted.hash))
    }

    /// Those of the keys that are valid, or expired.
    pub(crate) async fn look_up_in_time(&self, wanted: &[Wanted]) -> Result<HashMap<KeyHash, Arc<Cached>>, Refusal> {
        self.in_time(self.look_up_all(wanted)).await
    }

    async fn look_up_all(&self, wanted: &[Wanted]) -> Result<HashMap<KeyHash, Arc<Cached>>, sqlx::Error> {
        let hashes: HashSet<KeyHash> = wanted.iter().map(|wanted| wanted.hash).collect();
        let prefixes: Vec<&str> = wanted.iter().map(|wanted| wanted.prefix.as_str()).collect();
        let mut reads = 0;
        loop {
            let before = self.0.cache.generation();
            METRICS.lookups.inc();
            let rows = keys::find(&self.0.pool, &prefixes).await?;
            let rows = rows.into_iter().map(|row| (row.hash, row)).filter(|(hash, _)| hashes.contains(hash));
            let rows: HashMap<KeyHash, FoundKey> = rows.collect();
            hashes.iter().filter(|hash| !rows.contains_key(hash)).for_each(|hash| self.0.cache.store_unknown(*hash));
            let (mut found, mut is_current) = (HashMap::with_capacity(rows.len()), true);
            for (hash, row) in rows {
                // A key of an earlier configuration, or of another process: not valid in this one.
                if row.is_development && !self.is_development(&hash) {
                    continue;
                }
                let cached = Arc::new(self.cached(row, Instant::now()));
                is_current &= self.0.cache.store(hash, Arc::clone(&cached), before);
                found.insert(hash, cached);
            }
            reads += 1;
            // If keys change faster than this loop queries, they are used for these requests and not cached.
            if is_current || reads == MAX_READS {
                return Ok(found);
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

    fn refuse_uncounted() -> Refusal {
        METRICS.refused.inc();
        Refusal::Unknown
    }

    pub(crate) fn noisy(&self) -> &NoisyLookups {
        &self.0.noisy
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

fn unavailable() -> Refusal {
    METRICS.unavailable.inc();
    Refusal::Unavailable
}

fn is_expired(cached: &Cached) -> bool {
    cached.expires_at.is_some_and(|end| end <= OffsetDateTime::now_utc())
}
