//! Endpoints as the dispatcher knows them: reads the version, takes in what changed since, keeps the secrets opened. Which endpoints match
//! is decided in `matching`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use platform::seal::SealingKey;
use reqwest::Url;
use sqlx::postgres::PgPool;
use tokio::sync::Mutex;
use tracing::{error, info};

use crate::endpoints::store::Stored;
use crate::endpoints::{input, secrets, store};
use crate::matching::{Change, Endpoint, Snapshot, Subscription};

/// Keeps the picture of all endpoints. Cloning shares it.
#[derive(Clone)]
pub struct Directory {
    inner: Arc<Inner>,
}

struct Inner {
    pool: PgPool,
    sealing: SealingKey,
    default_max_in_flight: usize,
    snapshot: RwLock<Arc<Snapshot>>,
    /// One reads changes at a time; who waited finds them taken in.
    reading: Mutex<()>,
    /// Versions may have been given twice, so all is read anew.
    is_doubted: AtomicBool,
}

impl Directory {
    /// Knows nothing yet.
    pub fn new(pool: PgPool, sealing: SealingKey, default_max_in_flight: usize) -> Self {
        let snapshot = RwLock::new(Arc::new(Snapshot::default()));
        Self {
            inner: Arc::new(Inner {
                pool,
                sealing,
                default_max_in_flight,
                snapshot,
                reading: Mutex::new(()),
                is_doubted: AtomicBool::new(false),
            }),
        }
    }

    /// The endpoints with every change that was committed before this call.
    ///
    /// A version that went back is that of a database being restored from a backup: what is known goes on until [`Directory::doubt`] is told, which
    /// is when the positions are claimed from it. Read at once, a table that is still empty would have everything cancelled.
    ///
    /// # Errors
    /// As PostgreSQL has them.
    pub async fn current(&self) -> Result<Arc<Snapshot>, sqlx::Error> {
        let inner = &*self.inner;
        if let Some(known) = self.known_at(store::version(&inner.pool).await?) {
            return Ok(known);
        }
        let _reading = inner.reading.lock().await;
        // Read again, since somebody may have taken in a newer one meanwhile; and before the rows: what changes in between is read, and read
        // again next time.
        let version = store::version(&inner.pool).await?;
        if let Some(known) = self.known_at(version) {
            return Ok(known);
        }
        let known = self.known();
        let is_doubted = inner.is_doubted.swap(false, Ordering::Relaxed);
        let mut next = if is_doubted { Snapshot::default() } else { (*known).clone() };
        let changed = store::changed_since(&inner.pool, next.version()).await.inspect_err(|_| {
            inner.is_doubted.fetch_or(is_doubted, Ordering::Relaxed);
        })?;
        let changes = changed.into_iter().map(|stored| self.change(stored)).collect::<Vec<_>>();
        info!(version, changes = changes.len(), "Endpoints were read.");
        next.apply(changes, version);
        let next = Arc::new(next);
        *inner.snapshot.write().unwrap_or_else(PoisonError::into_inner) = next.clone();
        Ok(next)
    }

    /// Has the next reading take in all endpoints instead of what changed: a restored database counts on from an older version, and may have come
    /// past the one that is known by now.
    pub fn doubt(&self) {
        self.inner.is_doubted.store(true, Ordering::Relaxed);
    }

    fn known_at(&self, version: i64) -> Option<Arc<Snapshot>> {
        let known = self.known();
        (version <= known.version() && !self.inner.is_doubted.load(Ordering::Relaxed)).then_some(known)
    }

    /// The endpoints as they were read last.
    pub fn known(&self) -> Arc<Snapshot> {
        self.inner.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, mut stored: Stored) -> Change {
        let id = stored.id;
        if stored.deleted_at.is_some() {
            return Change::Removed(id);
        }
        let event_types = std::mem::take(&mut stored.event_types);
        let subscription = Subscription { id, org_id: stored.org_id, event_types, enabled: stored.enabled };
        let endpoint = self.open(stored).map(Box::new);
        if endpoint.is_none() {
            error!(endpoint_id = %id, "An endpoint's secrets cannot be opened with this sealing key; what is for it is kept and not sent.");
        }
        Change::Put(subscription, endpoint)
    }

    fn open(&self, stored: Stored) -> Option<Endpoint> {
        let sealing = &self.inner.sealing;
        let secret = secrets::open_secret(sealing, stored.id, &stored.sealed_secret?)?;
        let headers = secrets::open_headers(sealing, stored.id, stored.sealed_headers.as_deref())?;
        Some(Endpoint {
            id: stored.id,
            url: Url::parse(&stored.url).ok()?,
            secrets: vec![secret],
            headers: headers.iter().filter_map(|(name, value)| input::header(name, value).ok()).collect(),
            max_in_flight: stored.max_in_flight.and_then(|most| usize::try_from(most).ok()).unwrap_or(self.inner.default_max_in_flight),
            timeout: Duration::from_secs(u64::try_from(stored.timeout_seconds).ok()?),
            retry_delays_seconds: stored.retry_schedule.iter().filter_map(|delay| u32::try_from(*delay).ok()).collect(),
        })
    }
}
