//! Waiting until a consumer has passed a place on the log. One poller per watch, shared by all who wait; nobody waits,
//! nobody polls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long what was read counts. Positions only grow, but for two things: an operator mends one, or the database is
/// restored from a backup.
const FRESH: Duration = Duration::from_secs(1);

/// Positions of one consumer, when they were read: topic -> partition -> (log epoch, next offset).
#[derive(Default)]
struct Positions {
    read_at: Option<Instant>,
    places: HashMap<String, HashMap<i32, (i32, i64)>>,
}

impl Positions {
    fn of(&self, topic: &str, partition: i32) -> Option<(i32, i64)> {
        self.places.get(topic)?.get(&partition).copied()
    }
}

/// Watches the positions of one consumer (and so knows what it has made visible). Cloning shares the poller.
#[derive(Clone)]
pub struct PositionWatch {
    shared: Arc<Shared>,
}

struct Shared {
    pool: PgPool,
    consumer: String,
    positions: watch::Sender<Positions>,
    waiting: Mutex<usize>,
    somebody_waits: Notify,
    poller: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl PositionWatch {
    /// Watches `consumer`. Nothing is read before somebody waits.
    pub fn new(pool: PgPool, consumer: &str) -> Self {
        let shared = Shared {
            pool,
            consumer: consumer.to_owned(),
            positions: watch::Sender::new(Positions::default()),
            waiting: Mutex::new(0),
            somebody_waits: Notify::new(),
            poller: Mutex::new(None),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits until the position of (topic, partition) is at least `next_offset`, in whichever log; `false` when it is
    /// not within `deadline`, be it that the consumer is behind or that PostgreSQL does not answer.
    pub async fn reached(&self, topic: &str, partition: i32, next_offset: i64, deadline: Duration) -> bool {
        self.wait_for(topic, partition, |(_, reached)| reached >= next_offset, deadline).await
    }

    /// The same for an offset of this log epoch: a position in another log says nothing about it.
    pub async fn reached_in(
        &self,
        log_epoch: i32,
        topic: &str,
        partition: i32,
        next_offset: i64,
        deadline: Duration,
    ) -> bool {
        self.wait_for(topic, partition, |(epoch, reached)| epoch == log_epoch && reached >= next_offset, deadline).await
    }

    async fn wait_for(
        &self,
        topic: &str,
        partition: i32,
        is_passed: impl Fn((i32, i64)) -> bool,
        deadline: Duration,
    ) -> bool {
        let begun = Instant::now();
        let passed = |positions: &Positions| {
            positions.read_at.is_some_and(|at| at + FRESH >= begun)
                && positions.of(topic, partition).is_some_and(&is_passed)
        };
        if passed(&self.shared.positions.borrow()) {
            return true;
        }
        let _waiting = self.start_waiting();
        let mut positions = self.shared.positions.subscribe();
        let outcome = tokio::time::timeout_at(begun + deadline, positions.wait_for(passed)).await;
        matches!(outcome, Ok(Ok(_)))
    }

    fn start_waiting(&self) -> Waiting {
        *self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let mut poller = self.shared.poller.lock().unwrap_or_else(PoisonError::into_inner);
        if poller.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
            *poller = Some(tokio::spawn(poll(Arc::downgrade(&self.shared))));
        }
        drop(poller);
        self.shared.somebody_waits.notify_one();
        Waiting(self.shared.clone())
    }
}

/// One who waits; leaving is dropping it, however the wait ends.
struct Waiting(Arc<Shared>);

impl Drop for Waiting {
    fn drop(&mut self) {
        *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}

impl Shared {
    fn is_waited_for(&self) -> bool {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) > 0
    }
}

/// Lives as long as the watch. Holds it weakly, so that dropping the last clone ends it.
async fn poll(weak: std::sync::Weak<Shared>) {
    loop {
        let Some(shared) = weak.upgrade() else { return };
        if shared.is_waited_for() {
            if let Ok(positions) = read(&shared).await {
                shared.positions.send_replace(positions);
            }
            drop(shared);
            tokio::time::sleep(POLL_INTERVAL).await;
        } else {
            // An idle watch looks up once a second whether it is still wanted at all.
            let _elapsed = tokio::time::timeout(Duration::from_secs(1), shared.somebody_waits.notified()).await;
        }
    }
}

async fn read(shared: &Shared) -> Result<Positions, sqlx::Error> {
    let mut positions = Positions { read_at: Some(Instant::now()), places: HashMap::new() };
    let query =
        sqlx::query_as("SELECT topic, partition, log_epoch, next_offset FROM consumer_positions WHERE consumer = $1");
    let rows: Vec<(String, i32, i32, i64)> = query.bind(&shared.consumer).fetch_all(&shared.pool).await?;
    for (topic, partition, log_epoch, next_offset) in rows {
        positions.places.entry(topic).or_default().insert(partition, (log_epoch, next_offset));
    }
    Ok(positions)
}
