//! From a presented key to its caller. The hot path is one SHA-256 and one map look-up; everything else is for keys not
//! seen lately.
//!
//! How the cache is kept true lives in `watch`; what handlers see, in `caller`.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use time::OffsetDateTime;
use tokio::sync::Semaphore;

use crate::bad_keys::BadKeys;
use crate::cache::{CacheSettings, Cached, KeyCache};
use crate::caller::Caller;
use crate::key::{self, KeyHash};
use crate::keys;
use crate::metrics::METRICS;
use crate::refusal::Refusal;

/// Nobody's key is longer; what is longer is not even hashed.
const LONGEST_KEY_BYTES: usize = 255;
/// How often one look-up reads, when something changes while it does.
const MAX_READS: u32 = 3;

/// Knobs of the authenticator.
#[derive(Debug, Clone, Copy)]
pub struct AuthSettings {
    pub cache: CacheSettings,
    /// How many unknown keys are looked up at once; the rest of the pool is for those who are already known.
    pub max_look_ups: usize,
    /// How long one look-up may take, waiting for its turn included.
    pub look_up_timeout: Duration,
    /// Bad keys per address and minute before 429.
    pub bad_keys_per_minute: u32,
    /// Addresses that bad keys are counted for.
    pub max_bad_addresses: usize,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            cache: CacheSettings::default(),
            max_look_ups: 8,
            look_up_timeout: Duration::from_secs(2),
            bad_keys_per_minute: 30,
            max_bad_addresses: 10_000,
        }
    }
}

/// Tells who presents a key. Cloning shares it.
#[derive(Clone)]
pub struct Authenticator(Arc<Inner>);

struct Inner {
    pool: PgPool,
    cache: KeyCache,
    look_ups: Semaphore,
    look_up_timeout: Duration,
    bad_keys: Mutex<BadKeys>,
    /// Development keys that this process's own configuration lists; those alone may have any form.
    development: RwLock<HashSet<KeyHash>>,
}

impl Authenticator {
    /// One that knows no key yet. Does not connect.
    pub(crate) fn new(pool: PgPool, settings: &AuthSettings) -> Self {
        Self(Arc::new(Inner {
            pool,
            cache: KeyCache::new(&settings.cache),
            look_ups: Semaphore::new(settings.max_look_ups),
            look_up_timeout: settings.look_up_timeout,
            bad_keys: Mutex::new(BadKeys::new(settings.bad_keys_per_minute, settings.max_bad_addresses)),
            development: RwLock::new(HashSet::new()),
        }))
    }

    /// Who presents this key. `from` is where the request came from; bad keys are counted for it.
    ///
    /// # Errors
    /// When it is no key, or when that cannot be told.
    pub async fn authenticate(&self, presented: &str, from: IpAddr) -> Result<Caller, Refusal> {
        match self.find(presented).await {
            Ok(Some(known)) if !has_ended(&known) => Ok(known.caller.clone()),
            Ok(_) => Err(self.refuse(from)),
            Err(refusal) => Err(refusal),
        }
    }

    async fn find(&self, presented: &str) -> Result<Option<Arc<Cached>>, Refusal> {
        if presented.len() > LONGEST_KEY_BYTES {
            return Ok(None);
        }
        let hash = KeyHash::of(presented);
        if let Some(known) = self.0.cache.get(&hash) {
            return Ok(Some(known));
        }
        if !self.is_possible(presented, &hash) || self.0.cache.is_unknown(&hash) {
            return Ok(None);
        }
        match tokio::time::timeout(self.0.look_up_timeout, self.look_up(presented, hash)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                tracing::warn!(%error, "An API key could not be looked up.");
                METRICS.unavailable.inc();
                Err(Refusal::Unavailable)
            }
            Err(_) => {
                tracing::warn!("An API key could not be looked up in time.");
                METRICS.unavailable.inc();
                Err(Refusal::Unavailable)
            }
        }
    }

    /// Whether a look-up could find it: noise costs the database nothing.
    fn is_possible(&self, presented: &str, hash: &KeyHash) -> bool {
        key::is_well_formed(presented) || self.is_development(hash)
    }

    fn is_development(&self, hash: &KeyHash) -> bool {
        self.0.development.read().unwrap_or_else(PoisonError::into_inner).contains(hash)
    }

    async fn look_up(&self, presented: &str, hash: KeyHash) -> Result<Option<Arc<Cached>>, sqlx::Error> {
        let Ok(_turn) = self.0.look_ups.acquire().await else { return Err(sqlx::Error::PoolClosed) };
        // Of many requests that arrive with a new key at once, the first one looks up for all.
        if let Some(known) = self.0.cache.get(&hash) {
            return Ok(Some(known));
        }
        let mut reads = 0;
        loop {
            let before = self.0.cache.generation();
            METRICS.look_ups.inc();
            let Some(found) = keys::find(&self.0.pool, &key::prefix(presented), &hash).await? else {
                self.0.cache.store_unknown(hash);
                return Ok(None);
            };
            // Left over from an earlier configuration, or another process's: not a key here.
            if found.is_development && !self.is_development(&hash) {
                return Ok(None);
            }
            let known = Arc::new(found.into_cached(Instant::now()));
            reads += 1;
            // Where changes come faster than reads, it serves this once and is not kept.
            if self.0.cache.store(hash, Arc::clone(&known), before) || reads == MAX_READS {
                return Ok(Some(known));
            }
        }
    }

    fn refuse(&self, from: IpAddr) -> Refusal {
        METRICS.refused.inc();
        let wait = self.0.bad_keys.lock().unwrap_or_else(PoisonError::into_inner).count(from, Instant::now());
        wait.map_or(Refusal::Unknown, |wait| Refusal::TooMany { wait })
    }

    /// Lets this process take these development keys.
    pub(crate) fn allow_development(&self, hashes: impl IntoIterator<Item = KeyHash>) {
        let mut allowed = self.0.development.write().unwrap_or_else(PoisonError::into_inner);
        for hash in hashes {
            // It may have been tried before it was a key.
            self.0.cache.forget_unknown(&hash);
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

fn has_ended(known: &Cached) -> bool {
    known.expires_at.is_some_and(|end| end <= OffsetDateTime::now_utc())
}
