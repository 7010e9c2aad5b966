//! Keeps the cache true: hears of revoked keys by NOTIFY, and never trusts that alone.
//!
//! One task listens, one decides. The second also compares the version counter each second, whether or not the first
//! believes to be connected (a connection that silently died looks alive); a version it has not heard of makes it read
//! all cached keys again. So a revocation counts within a second as long as PostgreSQL can be reached at all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use platform::retry::Backoff;
use schemas::ids::{KeyId, OrgId};
use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::auth::Authenticator;
use crate::cache::Which;
use crate::keys;
use crate::metrics::METRICS;

const CHANNEL: &str = "tenancy";
const POLL: Duration = Duration::from_millis(1_000);
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
const REREAD_AT_ONCE: usize = 1_000;
const HEARD_QUEUE: usize = 1_024;

/// Runs both tasks until `shutdown`.
pub(crate) async fn run(authenticator: Authenticator, shutdown: CancellationToken) {
    let (heard, hearing) = mpsc::channel(HEARD_QUEUE);
    let pool = authenticator.pool().clone();
    let both = async { tokio::join!(listen(&pool, heard), Watch { authenticator, version: None }.run(hearing)) };
    tokio::select! {
        () = shutdown.cancelled() => {}
        _ = both => {}
    }
}

/// A change as the trigger in the database tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heard {
    version: i64,
    changed: Changed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Changed {
    Key(KeyId),
    Organization(OrgId),
}

impl Heard {
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

/// Passes on what is heard, for ever; connects again whenever the connection is gone.
async fn listen(pool: &PgPool, heard: mpsc::Sender<Heard>) {
    let mut backoff = Backoff::of_database();
    loop {
        if let Err(error) = listen_once(pool, &heard, &mut backoff).await {
            tracing::warn!(%error, "Changes of keys are not heard of at the moment; they are polled for each second.");
        }
        METRICS.listening.set(0.0);
        backoff.pause().await;
    }
}

/// Ends when the connection does, instead of letting the listener replace it in silence.
async fn listen_once(pool: &PgPool, heard: &mpsc::Sender<Heard>, backoff: &mut Backoff) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    METRICS.listening.set(1.0);
    backoff.reset();
    while let Some(notification) = listener.try_recv().await? {
        match Heard::parse(notification.payload()) {
            // The receiver goes only when this does.
            Some(change) => drop(heard.send(change).await),
            // Written by hand or by a later version: the version counter tells what it cannot.
            None => tracing::warn!("A notification about keys was not understood."),
        }
    }
    Ok(())
}

/// What was heard of, and the cache it applies to.
struct Watch {
    authenticator: Authenticator,
    /// The last version up to which every change was applied to the cache.
    version: Option<i64>,
}

impl Watch {
    async fn run(mut self, mut hearing: mpsc::Receiver<Heard>) {
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(heard) = hearing.recv() => self.apply(heard),
                _ = tick.tick() => self.poll().await,
            }
        }
    }

    fn apply(&mut self, heard: Heard) {
        match heard.changed {
            Changed::Key(id) => self.authenticator.cache().forget_key(id),
            Changed::Organization(id) => self.authenticator.cache().forget_organization(id),
        }
        // Versions commit in their order, so the next one means that none is missing. After a gap the next poll reads
        // all again.
        if self.version.is_some_and(|version| version + 1 == heard.version) {
            self.version = Some(heard.version);
        }
    }

    async fn poll(&mut self) {
        match tokio::time::timeout(QUERY_TIMEOUT, self.compare()).await {
            Ok(Ok(())) => {}
            // Cached keys serve on, for as long as the cache keeps them.
            Ok(Err(error)) => tracing::debug!(%error, "The version of the keys could not be read."),
            Err(_) => tracing::debug!("The version of the keys could not be read in time."),
        }
    }

    async fn compare(&mut self) -> Result<(), sqlx::Error> {
        let version = keys::version(self.authenticator.pool()).await?;
        if self.version == Some(version) {
            return self.reread(Which::Aging).await;
        }
        METRICS.reread.inc();
        // Whoever is looking a key up right now may have read it before the change.
        self.authenticator.cache().raise_generation();
        self.reread(Which::All).await?;
        self.version = Some(version);
        Ok(())
    }

    /// Reads cached keys again. What is heard of meanwhile is applied afterwards, since the same task does both.
    async fn reread(&self, which: Which) -> Result<(), sqlx::Error> {
        let cache = self.authenticator.cache();
        for entries in cache.entries(which, Instant::now()).chunks(REREAD_AT_ONCE) {
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
                    // If a route revoked a key meanwhile, it is not stored but read again when it is used.
                    Some(key) => {
                        cache.store(*hash, Arc::new(key.into_cached(read_at)), before);
                    }
                    None => cache.forget(hash),
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
    fn a_message_of_the_trigger_is_understood_and_no_other() {
        let id = KeyId::generate();
        assert_eq!(Heard::parse(&format!("7 key {id}")), Some(Heard { version: 7, changed: Changed::Key(id) }));
        let org = OrgId::generate();
        assert_eq!(
            Heard::parse(&format!("8 organization {org}")),
            Some(Heard { version: 8, changed: Changed::Organization(org) })
        );
        for odd in
            ["", "7", "7 key", "7 key x", &format!("x key {id}"), &format!("7 user {id}"), &format!("7 key {id} more")]
        {
            assert_eq!(Heard::parse(odd), None, "{odd}");
        }
    }
}
