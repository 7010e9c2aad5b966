//! Waiting until a consumer has passed a place on the log. One poller per watch, shared by all who wait; nobody waits, nobody polls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Positions of one consumer: topic -> partition -> next offset.
type Positions = HashMap<String, HashMap<i32, i64>>;

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
            positions: watch::Sender::new(Positions::new()),
            waiting: Mutex::new(0),
            somebody_waits: Notify::new(),
            poller: Mutex::new(None),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Waits until the position of (topic, partition) is at least `next_offset`; `false` when it is not within `deadline`, be it that the
    /// consumer is behind or that PostgreSQL does not answer.
    pub async fn reached(&self, topic: &str, partition: i32, next_offset: i64, deadline: Duration) -> bool {
        let passed =
            |positions: &Positions| positions.get(topic).and_then(|of| of.get(&partition)).is_some_and(|reached| *reached >= next_offset);
        // Positions only grow (within a log epoch), so what is known already is enough for a yes.
        if passed(&self.shared.positions.borrow()) {
            return true;
        }
        let until = Instant::now() + deadline;
        let _waiting = self.start_waiting();
        let mut positions = self.shared.positions.subscribe();
        let outcome = tokio::time::timeout_at(until, positions.wait_for(passed)).await;
        matches!(outcome, Ok(Ok(_)))
    }

    /// The position last read of (topic, partition), without waiting; `None` when nobody has waited yet or it was never claimed.
    pub fn last_known(&self, topic: &str, partition: i32) -> Option<i64> {
        self.shared.positions.borrow().get(topic)?.get(&partition).copied()
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
    let rows: Vec<(String, i32, i64)> = sqlx::query_as("SELECT topic, partition, next_offset FROM consumer_positions WHERE consumer = $1")
        .bind(&shared.consumer)
        .fetch_all(&shared.pool)
        .await?;
    let mut positions = Positions::new();
    for (topic, partition, next_offset) in rows {
        positions.entry(topic).or_default().insert(partition, next_offset);
    }
    Ok(positions)
}
