//! Endpoints as the dispatcher knows them: reads the version, takes in what changed since, keeps the secrets opened.
//! Which endpoints match is decided in `matching`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use platform::seal::SealingKey;
use reqwest::Url;
use sqlx::postgres::PgPool;
use tokio::sync::Mutex;
use tracing::{error, info, warn};

use crate::endpoints::store::{Stored, Version};
use crate::endpoints::{input, secrets, store};
use crate::matching::{Change, Endpoint, Snapshot, Subscription};

/// How often the stored version is looked at, and how long it may be an older one.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const BACK_FOR: Duration = Duration::from_secs(4);

/// Keeps the picture of all endpoints. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Directory {
    inner: Arc<Inner>,
}

struct Inner {
    pool: PgPool,
    sealing: SealingKey,
    default_max_in_flight: usize,
    snapshot: RwLock<Arc<Snapshot>>,
    /// One reads changes at a time; who waited finds them taken in.
    reading: Mutex<()>,
    /// How often versions may have been given twice, so that all is to be read anew, and up to which of these times it
    /// was.
    doubts: AtomicU64,
    read_after: AtomicU64,
}

impl Directory {
    pub(crate) fn new(pool: PgPool, sealing: SealingKey, default_max_in_flight: usize) -> Self {
        let snapshot = RwLock::new(Arc::new(Snapshot::default()));
        Self {
            inner: Arc::new(Inner {
                pool,
                sealing,
                default_max_in_flight,
                snapshot,
                reading: Mutex::new(()),
                doubts: AtomicU64::new(0),
                read_after: AtomicU64::new(0),
            }),
        }
    }

    /// The endpoints with every change that was committed before this call. Those of an organization whose tombstone
    /// was committed before this call count as deleted.
    ///
    /// A version that went back is that of a database being restored from a backup: what is known goes on until
    /// [`Directory::doubt`] is told, which is when the positions are claimed from it, or when it has stayed back
    /// ([`Directory::watch`]). Read at once, a table that is still empty would have everything cancelled.
    pub(crate) async fn current(&self) -> Result<Arc<Snapshot>, sqlx::Error> {
        let inner = &*self.inner;
        if let Some(known) = self.known_at(&store::version(&inner.pool).await?) {
            return Ok(known);
        }
        let _reading = inner.reading.lock().await;
        // Before everything else: a doubt that comes meanwhile is not of what is read now.
        let doubts = inner.doubts.load(Ordering::SeqCst);
        // Read again, since somebody may have taken in a newer one meanwhile; and before the rows: what changes in
        // between is read, and read again next time.
        let current = store::version(&inner.pool).await?;
        if let Some(known) = self.known_at(&current) {
            return Ok(known);
        }
        let known = self.known();
        let is_doubted = inner.read_after.load(Ordering::SeqCst) < doubts;
        let mut next = if is_doubted { Snapshot::default() } else { (*known).clone() };
        let changed = store::changed_since(&inner.pool, next.version()).await?;
        let changes = changed.into_iter().map(|stored| self.change(stored)).collect::<Vec<_>>();
        let Version { version, erasing } = current;
        info!(version, changes = changes.len(), erasing = erasing.len(), "Endpoints were read.");
        // A version that went back says nothing: what is known goes on.
        next.apply(changes, if is_doubted { version } else { version.max(known.version()) });
        next.set_erasing(erasing);
        let next = Arc::new(next);
        *inner.snapshot.write().unwrap_or_else(PoisonError::into_inner) = next.clone();
        inner.read_after.store(doubts, Ordering::SeqCst);
        Ok(next)
    }

    /// Has the next reading take in all endpoints instead of what changed: a restored database counts on from an older
    /// version, and may have come past the one that is known by now.
    pub(crate) fn doubt(&self) {
        self.inner.doubts.fetch_add(1, Ordering::SeqCst);
    }

    /// Looks at the stored version, also while nothing is delivered, until dropped, and doubts when it stays older than
    /// the known one. A backup that is older by endpoints alone shows nowhere else; and once new endpoints have brought
    /// its version up to the known one, nowhere at all.
    pub(crate) async fn watch(self) {
        let mut back_since: Option<Instant> = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // What a database that does not answer has in it will be seen later.
            let Ok(Version { version, .. }) = store::version(&self.inner.pool).await else {
                back_since = None;
                continue;
            };
            back_since = (version < self.known().version()).then(|| back_since.unwrap_or_else(Instant::now));
            if back_since.is_some_and(|since| since.elapsed() >= BACK_FOR) {
                warn!(
                    version,
                    known = self.known().version(),
                    "The endpoints went back to an older version: all of them are read anew."
                );
                self.doubt();
                // What fails now is read by whoever needs it next.
                let _read = self.current().await;
            }
        }
    }

    fn known_at(&self, current: &Version) -> Option<Arc<Snapshot>> {
        let known = self.known();
        let is_doubted = self.inner.read_after.load(Ordering::SeqCst) < self.inner.doubts.load(Ordering::SeqCst);
        let holds = current.version <= known.version() && current.erasing == known.erasing();
        (holds && !is_doubted).then_some(known)
    }

    /// The endpoints as they were read last.
    pub(crate) fn known(&self) -> Arc<Snapshot> {
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
            max_in_flight: stored
                .max_in_flight
                .and_then(|most| usize::try_from(most).ok())
                .unwrap_or(self.inner.default_max_in_flight),
            timeout: Duration::from_secs(u64::try_from(stored.timeout_seconds).ok()?),
            retry_delays_seconds: stored.retry_schedule.iter().filter_map(|delay| u32::try_from(*delay).ok()).collect(),
        })
    }
}
