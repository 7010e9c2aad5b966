//! The positions of one consumer, polled while a request in this process waits until the consumer has applied a record.
//! One reader for all; nobody waits, nobody reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::watch;
use tokio::time::Instant;

use runtime::on_demand::OnDemand;

const POLL_INTERVAL: Duration = Duration::from_millis(5);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);
/// How long one read may take: a connection that hangs must not keep everybody from the next one.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// How old positions may be when a wait starts. They only grow, but for two things: an operator repairs one, or the
/// database is restored from a backup.
const FRESH: Duration = Duration::from_secs(1);

/// Where a consumer is in one partition. Ordered as the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Which log of the topic.
    pub log_epoch: i32,
    /// The first offset that it has not applied.
    pub next_offset: i64,
}

/// The positions of one consumer at one time.
#[derive(Debug, Clone, Default)]
pub struct Positions {
    read_at: Option<Instant>,
    by_topic: HashMap<String, HashMap<i32, Known>>,
}

/// What was read of one partition.
#[derive(Debug, Clone, Copy)]
struct Known {
    position: Position,
    record_time_ms: Option<i64>,
}

impl Positions {
    /// The position in one partition; `None`: it has none there.
    pub fn get(&self, topic: &str, partition: i32) -> Option<Position> {
        Some(self.by_topic.get(topic)?.get(&partition)?.position)
    }

    /// Append time of the last record before the position in one partition, milliseconds since the Unix epoch.
    pub fn record_time_ms(&self, topic: &str, partition: i32) -> Option<i64> {
        self.by_topic.get(topic)?.get(&partition)?.record_time_ms
    }

    /// The positions in all partitions of a topic.
    pub fn of_topic(&self, topic: &str) -> impl Iterator<Item = (i32, Position)> {
        self.by_topic.get(topic).into_iter().flatten().map(|(partition, known)| (*partition, known.position))
    }

    /// When PostgreSQL was asked for them.
    pub fn read_at(&self) -> Option<Instant> {
        self.read_at
    }
}

/// Reads the positions of one consumer (and so knows what it has made visible). Cloning shares it.
#[derive(Clone)]
pub struct PositionsPoller {
    shared: Arc<Shared>,
}

struct Shared {
    pool: PgPool,
    consumer: String,
    /// Who waits has a receiver of it.
    positions: watch::Sender<Positions>,
    task: OnDemand,
}

impl PositionsPoller {
    /// For `consumer`. Nothing is read before somebody waits.
    pub fn new(pool: PgPool, consumer: &str) -> Self {
        let positions = watch::Sender::new(Positions::default());
        let task = OnDemand::new("positions poller");
        Self { shared: Arc::new(Shared { pool, consumer: consumer.to_owned(), positions, task }) }
    }

    /// The positions as they are read, every 5 ms for as long as somebody holds a receiver.
    pub fn subscribe(&self) -> watch::Receiver<Positions> {
        let receiver = self.shared.positions.subscribe();
        let (needed, shared) = (self.shared.clone(), self.shared.clone());
        self.shared.task.ensure_running(move || needed.is_needed(), move || poll(shared.clone()));
        receiver
    }

    /// Whether positions are being read at the moment.
    pub fn is_polling(&self) -> bool {
        self.shared.task.is_running()
    }

    /// Waits until fresh positions satisfy `is_reached`; `false` when none do within `deadline`, be it that the
    /// consumer is behind or that PostgreSQL does not answer.
    pub async fn wait_until(&self, deadline: Duration, is_reached: impl Fn(&Positions) -> bool) -> bool {
        let start = Instant::now();
        let is_reached =
            |positions: &Positions| positions.read_at.is_some_and(|at| at + FRESH >= start) && is_reached(positions);
        if is_reached(&self.shared.positions.borrow()) {
            return true;
        }
        let mut positions = self.subscribe();
        matches!(tokio::time::timeout_at(start + deadline, positions.wait_for(is_reached)).await, Ok(Ok(_)))
    }

    /// Waits until the consumer has applied `next_offset - 1` of this log. A position in another log says nothing about
    /// it.
    pub async fn wait_for_offset(
        &self,
        log_epoch: i32,
        topic: &str,
        partition: i32,
        next_offset: i64,
        deadline: Duration,
    ) -> bool {
        let goal = Position { log_epoch, next_offset };
        let is_reached = |known: Position| known.log_epoch == log_epoch && known >= goal;
        self.wait_until(deadline, |positions| positions.get(topic, partition).is_some_and(is_reached)).await
    }

    /// Positions that were read after `known`, at once if some were; `None`: not within `deadline`.
    pub async fn newer_than(&self, known: Option<Instant>, deadline: Duration) -> Option<Positions> {
        let is_newer = |positions: &Positions| positions.read_at > known;
        let last = self.shared.positions.borrow().clone();
        if is_newer(&last) {
            return Some(last);
        }
        let mut positions = self.subscribe();
        let newer = tokio::time::timeout(deadline, positions.wait_for(is_newer)).await;
        newer.ok()?.ok().map(|positions| positions.clone())
    }
}

impl Shared {
    fn is_needed(&self) -> bool {
        self.positions.receiver_count() > 0
    }
}

async fn poll(shared: Arc<Shared>) {
    let pause = match read(&shared).await {
        Ok(positions) => {
            shared.positions.send_replace(positions);
            POLL_INTERVAL
        }
        // Who waits has a deadline, and then reads the view itself, which says why it cannot be read.
        Err(error) => {
            tracing::debug!(%error, "Reading positions failed; trying again.");
            PAUSE_AFTER_ERROR
        }
    };
    tokio::time::sleep(pause).await;
}

async fn read(shared: &Shared) -> Result<Positions, sqlx::Error> {
    let mut positions = Positions { read_at: Some(Instant::now()), by_topic: HashMap::new() };
    let query = sqlx::query_as(
        "SELECT topic, partition, log_epoch, next_offset, (extract(epoch FROM record_time) * 1000)::bigint
         FROM consumer_positions WHERE consumer = $1",
    );
    let mut connection = shared.pool.acquire().await?;
    let rows = query.bind(&shared.consumer).fetch_all(&mut *connection);
    let Ok(rows) = tokio::time::timeout(READ_TIMEOUT, rows).await else {
        // Not back into the pool, where it would be used up until the server answers.
        drop(connection.detach());
        return Err(sqlx::Error::PoolTimedOut);
    };
    let rows: Vec<(String, i32, i32, i64, Option<i64>)> = rows?;
    for (topic, partition, log_epoch, next_offset, record_time_ms) in rows {
        let known = Known { position: Position { log_epoch, next_offset }, record_time_ms };
        positions.by_topic.entry(topic).or_default().insert(partition, known);
    }
    Ok(positions)
}
