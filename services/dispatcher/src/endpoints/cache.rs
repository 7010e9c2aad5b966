//! The endpoints in memory, with opened secrets. Every read compares the stored version and applies the changes since.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use runtime::seal::SealingKey;
use sqlx::postgres::PgPool;
use tokio::sync::Mutex;
use tracing::{error, info, warn};
use url::Url;

use crate::attempt::authorization::Authorization;
use crate::attempt::compat_sign::CompatSigner;
use crate::batch::settings::BatchSettings;
use crate::endpoints::headers::header;
use crate::endpoints::input::MAX_IN_FLIGHT;
use crate::endpoints::matching::{Change, Endpoint, Secrets, Snapshot, Subscription};
use crate::endpoints::pages::{PAGE_ROWS, ReadUpTo, Rows};
use crate::endpoints::store::{StoredEndpoint, Version};
use crate::endpoints::{filter, pages, secrets, store};

const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The cache is invalidated if the stored version is older than the cached one for so long.
const MAX_REGRESSION: Duration = Duration::from_secs(4);

/// All endpoints. Cloning shares the cache.
#[derive(Clone)]
pub(crate) struct EndpointCache {
    inner: Arc<Inner>,
}

struct Inner {
    pool: PgPool,
    sealing: SealingKey,
    default_max_in_flight: usize,
    snapshot: RwLock<Arc<Snapshot>>,
    /// One task refreshes at a time; the others then find a current snapshot.
    refresh: Mutex<()>,
    /// How often the cache was invalidated, and how many of these invalidations the snapshot covers.
    invalidations: AtomicU64,
    covered: AtomicU64,
}

impl EndpointCache {
    pub(crate) fn new(pool: PgPool, sealing: SealingKey, default_max_in_flight: usize) -> Self {
        let snapshot = RwLock::new(Arc::new(Snapshot::default()));
        Self {
            inner: Arc::new(Inner {
                pool,
                sealing,
                default_max_in_flight,
                snapshot,
                refresh: Mutex::new(()),
                invalidations: AtomicU64::new(0),
                covered: AtomicU64::new(0),
            }),
        }
    }

    /// The endpoints with every change that was committed before this call. Endpoints of an organization whose
    /// tombstone was committed before this call count as deleted.
    ///
    /// The stored version is older while a database is being restored from a backup. Then the cached endpoints stay in
    /// use until [`EndpointCache::invalidate`] is called: when the positions are claimed from the restored database, or
    /// when the version stays older ([`EndpointCache::watch`]). Reading a table that is still empty would cancel all
    /// deliveries.
    pub(crate) async fn current(&self) -> Result<Arc<Snapshot>, sqlx::Error> {
        let inner = &*self.inner;
        if let Some(cached) = self.cached_at(&store::version(&inner.pool).await?) {
            return Ok(cached);
        }
        let _refresh = inner.refresh.lock().await;
        // Loaded first: the rows that are read below do not cover a later invalidation.
        let invalidations = inner.invalidations.load(Ordering::SeqCst);
        // Another task may have refreshed meanwhile. The version is read before the rows: a change in between is read,
        // and read again next time.
        let current = store::version(&inner.pool).await?;
        if let Some(cached) = self.cached_at(&current) {
            return Ok(cached);
        }
        let cached = self.cached();
        let is_invalid = inner.covered.load(Ordering::SeqCst) < invalidations;
        let Version { version, purged_version, erasing } = current;
        // Deletions after the cached version may be purged.
        let from_nothing = is_invalid || cached.version() == 0 || cached.version() < purged_version;
        let mut next = if from_nothing { Snapshot::default() } else { (*cached).clone() };
        let rows = if from_nothing { Rows::Live } else { Rows::Changed };
        let read = self.read(&mut next, rows).await?;
        info!(version, rows = read, erasing = erasing.len(), "Endpoint cache refreshed.");
        next.set_version(if is_invalid { version } else { version.max(cached.version()) });
        next.set_erasing(erasing);
        let next = Arc::new(next);
        *inner.snapshot.write().unwrap_or_else(PoisonError::into_inner) = next.clone();
        inner.covered.store(invalidations, Ordering::SeqCst);
        Ok(next)
    }

    /// Applies all rows after the version of `snapshot`, page by page. Returns their number.
    async fn read(&self, snapshot: &mut Snapshot, rows: Rows) -> Result<usize, sqlx::Error> {
        let (mut read, mut after) = (0, ReadUpTo::version(snapshot.version()));
        loop {
            let page = pages::next(&self.inner.pool, rows, after).await?;
            let is_last = page.len() < PAGE_ROWS;
            read += page.len();
            if let Some(last) = page.last() {
                after = ReadUpTo::row(last);
            }
            snapshot.apply(page.into_iter().map(|stored| self.change(stored)));
            if is_last {
                return Ok(read);
            }
        }
    }

    /// Makes the next read load all endpoints instead of the changes: a restored database continues from an older
    /// version and may have passed the cached version by now.
    pub(crate) fn invalidate(&self) {
        self.inner.invalidations.fetch_add(1, Ordering::SeqCst);
    }

    /// Polls the stored version until dropped, also while nothing is delivered, and invalidates the cache if the
    /// version stays older than the cached one. Only this notices a restored backup that lacks endpoints and has the
    /// same positions, and only until new endpoints raise its version to the cached one.
    pub(crate) async fn watch(self) {
        let mut older_since: Option<Instant> = None;
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let Ok(Version { version, .. }) = store::version(&self.inner.pool).await else {
                older_since = None;
                continue;
            };
            let cached = self.cached().version();
            older_since = (version < cached).then(|| older_since.unwrap_or_else(Instant::now));
            if older_since.is_some_and(|since| since.elapsed() >= MAX_REGRESSION) {
                warn!(version, cached, "Stored endpoints are older than the cached ones; reading all of them again.");
                self.invalidate();
                // The next caller of `current` retries a failed read.
                let _read = self.current().await;
            }
        }
    }

    fn cached_at(&self, current: &Version) -> Option<Arc<Snapshot>> {
        let cached = self.cached();
        let is_valid = self.inner.covered.load(Ordering::SeqCst) >= self.inner.invalidations.load(Ordering::SeqCst);
        let is_current = current.version <= cached.version() && current.erasing == cached.erasing();
        (is_valid && is_current).then_some(cached)
    }

    /// The endpoints of the last read.
    pub(crate) fn cached(&self) -> Arc<Snapshot> {
        self.inner.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, mut stored: StoredEndpoint) -> Change {
        let id = stored.id;
        if stored.deleted_at.is_some() {
            return Change::Removed(id);
        }
        let event_types = std::mem::take(&mut stored.event_types);
        let filter = stored.filter.take().map(|filter| filter::read(&filter, "filter")).transpose();
        let batch = stored.batch.take().map(|batch| BatchSettings::stored(&batch)).transpose();
        let is_readable = filter.is_ok() && batch.is_ok();
        let filter = filter.ok().flatten();
        let StoredEndpoint { org_id, ordered, ack_on_success, enabled, .. } = stored;
        let subscription = Subscription { id, org_id, event_types, filter, ordered, ack_on_success, enabled };
        let endpoint = self.open(stored, batch.ok().flatten()).map(Box::new);
        if endpoint.is_none() {
            error!(endpoint_id = %id, "Sealing key does not open the endpoint's secrets; holding its deliveries.");
        }
        if !is_readable {
            error!(endpoint_id = %id, "Stored settings of the endpoint cannot be read; holding its deliveries.");
        }
        let endpoint = endpoint.filter(|_| is_readable);
        Change::Put(subscription, endpoint)
    }

    fn open(&self, stored: StoredEndpoint, batch: Option<BatchSettings>) -> Option<Endpoint> {
        let sealing = &self.inner.sealing;
        let mut secrets = vec![secrets::open_secret(sealing, stored.id, &stored.sealed_secret?)?];
        if let Some(previous) = stored.sealed_previous_secret {
            secrets.push(secrets::open_secret(sealing, stored.id, &previous)?);
        }
        let headers = secrets::open_headers(sealing, stored.id, stored.sealed_headers.as_deref())?;
        let authorization = match stored.credentials.sealed_auth {
            Some(sealed) => Some(Authorization::of(stored.id, &secrets::open_auth(sealing, stored.id, &sealed)?)?),
            None => None,
        };
        let compat_signer = match stored.credentials.sealed_compat_signature {
            Some(sealed) => Some(CompatSigner::of(&secrets::open_compat_signature(sealing, stored.id, &sealed)?)?),
            None => None,
        };
        Some(Endpoint {
            id: stored.id,
            org_id: stored.org_id,
            url: Url::parse(&stored.url).ok()?,
            secrets: Secrets { all: secrets, previous_expires_at: stored.previous_expires_at },
            headers: headers.iter().filter_map(|(name, value)| header(name, value).ok()).collect(),
            authorization,
            compat_signer,
            max_in_flight: stored
                .max_in_flight
                .and_then(|max| usize::try_from(max).ok())
                .map_or(self.inner.default_max_in_flight, |max| max.min(usize::from(MAX_IN_FLIGHT))),
            rate_limit_per_second: stored.rate_limit_per_second.and_then(|limit| u32::try_from(limit).ok()),
            timeout: Duration::from_secs(u64::try_from(stored.timeout_seconds).ok()?),
            retry_delays_seconds: stored.retry_schedule.iter().filter_map(|delay| u32::try_from(*delay).ok()).collect(),
            batch,
        })
    }
}
