//! Invalidates cached keys: by NOTIFY, and by polling a version counter.
//!
//! One task listens, one applies changes. The second also reads the version counter every second, even while the first
//! is connected, because a dead connection may look alive. If the version is not the expected one, it reads all cached
//! keys again. So a revocation takes effect within a second while PostgreSQL is reachable.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::retry::Backoff;
use schemas::ids::{KeyId, OrgId};
use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::auth::Authenticator;
use crate::cache::EntryFilter;
use crate::keys;
use crate::metrics::METRICS;

const CHANNEL: &str = "tenancy";
const POLL: Duration = Duration::from_millis(1_000);
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Keys in one statement.
const RELOAD_BATCH: usize = 1_000;
const CHANGE_QUEUE: usize = 1_024;

/// Runs both tasks until `shutdown`.
pub(crate) async fn run(authenticator: Authenticator, shutdown: CancellationToken) {
    let (sender, changes) = mpsc::channel(CHANGE_QUEUE);
    let pool = authenticator.pool().clone();
    let both = async { tokio::join!(listen(&pool, sender), KeyWatch { authenticator, version: None }.run(changes)) };
    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = both => {}
    }
}

/// A change, as the trigger in the database reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeyChange {
    version: i64,
    changed: Changed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Changed {
    Key(KeyId),
    Organization(OrgId),
}

impl KeyChange {
    /// Reads `VERSION key|organization ID`.
    fn parse(message: &str) -> Option<Self> {
        let mut words = message.split(' ');
        let version = words.next()?.parse().ok()?;
        let changed = match (words.next()?, words.next()?) {
            ("key", id) => Changed::Key(id.parse().ok()?),
            ("organization", id) => Changed::Organization(id.parse().ok()?),
            _ => return None,
        };
        words.next().is_none().then_some(Self { version, changed })
    }
}

/// Forwards notifications; connects again when the connection is lost. Never returns.
async fn listen(pool: &PgPool, sender: mpsc::Sender<KeyChange>) {
    let mut backoff = Backoff::of_database();
    loop {
        if let Err(error) = listen_once(pool, &sender, &mut backoff).await {
            tracing::warn!(%error, "LISTEN connection lost; polling key revocations every second");
        }
        METRICS.listening.set(0.0);
        backoff.pause().await;
    }
}

/// Returns when the connection is lost. `PgListener` would reconnect silently, and notifications would be missed.
async fn listen_once(
    pool: &PgPool,
    sender: &mpsc::Sender<KeyChange>,
    backoff: &mut Backoff,
) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    METRICS.listening.set(1.0);
    backoff.reset();
    while let Some(notification) = listener.try_recv().await? {
        match KeyChange::parse(notification.payload()) {
            // The receiver is dropped only together with this task.
            Some(change) => drop(sender.send(change).await),
            // Sent by hand or by a later version. The version counter still reveals the change.
            None => tracing::warn!("Malformed notification about keys; waiting for the next poll of the key version"),
        }
    }
    Ok(())
}

/// Applies changes to the cache.
struct KeyWatch {
    authenticator: Authenticator,
    /// The last version up to which every change was applied to the cache.
    version: Option<i64>,
}

impl KeyWatch {
    async fn run(mut self, mut changes: mpsc::Receiver<KeyChange>) {
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(change) = changes.recv() => self.apply(change),
                _ = tick.tick() => self.poll().await,
            }
        }
    }

    fn apply(&mut self, change: KeyChange) {
        match change.changed {
            Changed::Key(id) => self.authenticator.cache().invalidate_key(id),
            Changed::Organization(id) => self.authenticator.cache().invalidate_organization(id),
        }
        // Versions commit in order, so version + 1 means that no change was missed. After a gap, the next poll reads
        // all keys again.
        if self.version.is_some_and(|version| version + 1 == change.version) {
            self.version = Some(change.version);
        }
    }

    async fn poll(&mut self) {
        match tokio::time::timeout(QUERY_TIMEOUT, self.check_version()).await {
            Ok(Ok(())) => {}
            // Cached keys stay valid for `serve_for`.
            Ok(Err(error)) => tracing::debug!(%error, "Key version could not be read; retrying in a second"),
            Err(_) => tracing::debug!("Reading the key version timed out; retrying in a second"),
        }
    }

    async fn check_version(&mut self) -> Result<(), sqlx::Error> {
        let version = keys::version(self.authenticator.pool()).await?;
        if self.version == Some(version) {
            return self.reload(EntryFilter::Stale).await;
        }
        METRICS.cache_reloads.inc();
        // A lookup in progress may have read its key before the change.
        self.authenticator.cache().raise_generation();
        self.reload(EntryFilter::All).await?;
        self.version = Some(version);
        Ok(())
    }

    /// Reads cached keys again. Changes reported meanwhile are applied afterwards, because the same task does both.
    async fn reload(&self, filter: EntryFilter) -> Result<(), sqlx::Error> {
        let cache = self.authenticator.cache();
        for entries in cache.entries(filter, Instant::now()).chunks(RELOAD_BATCH) {
            let before = cache.generation();
            let ids = entries.iter().map(|(_, key_id)| *key_id).collect::<Vec<_>>();
            let read_at = Instant::now();
            let mut found: HashMap<KeyId, _> = keys::find_by_ids(self.authenticator.pool(), &ids)
                .await?
                .into_iter()
                .map(|key| (key.key_id, key))
                .collect();
            for (hash, key_id) in entries {
                match found.remove(key_id) {
                    // If a route revoked a key meanwhile, the key is not stored, and is looked up when it is used.
                    Some(key) => {
                        cache.store(*hash, Arc::new(self.authenticator.cached(key, read_at)), before);
                    }
                    None => cache.invalidate(hash),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_of_the_trigger_are_parsed() {
        let id = KeyId::generate();
        assert_eq!(KeyChange::parse(&format!("7 key {id}")), Some(KeyChange { version: 7, changed: Changed::Key(id) }));
        let org = OrgId::generate();
        assert_eq!(
            KeyChange::parse(&format!("8 organization {org}")),
            Some(KeyChange { version: 8, changed: Changed::Organization(org) })
        );
        for odd in
            ["", "7", "7 key", "7 key x", &format!("x key {id}"), &format!("7 user {id}"), &format!("7 key {id} more")]
        {
            assert_eq!(KeyChange::parse(odd), None, "{odd}");
        }
    }
}
