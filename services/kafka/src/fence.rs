//! Positions in PostgreSQL, with the fence that makes a consumer's writes effectively-once.
//!
//! A consumer claims its partitions (which raises their epochs), and every transaction it commits moves the positions
//! under that epoch, by compare-and-set, together with the rows. A writer that was overtaken matches no row and so
//! writes nothing. What the rows are is the consumer's business; reading Kafka is [`crate`]'s.

mod poller;
pub mod repair;
pub mod skip;

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::unix_time::{from_millis, to_millis};
use sqlx::postgres::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use poller::{Position, Positions, PositionsPoller};

use runtime::retry::Backoff;

use crate::log_identity::LogIdentity;

/// The right to write one partition, until somebody claims it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Full topic name.
    pub topic: Arc<str>,
    /// Partition of that topic.
    pub partition: i32,
    /// Grows with every claim.
    pub epoch: i64,
    /// Grows when an operator accepts that the topic was recreated.
    pub log_epoch: i32,
    /// First offset to read.
    pub next_offset: i64,
}

/// One position to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// Full topic name.
    pub topic: Arc<str>,
    /// Partition of that topic.
    pub partition: i32,
    /// Epoch of the claim that this is done under.
    pub epoch: i64,
    /// The offset that must be stored now.
    pub expected: i64,
    /// The offset that is stored by this.
    pub next: i64,
    /// Append time of the last record before `next`, milliseconds since the Unix epoch, from which lag is measured;
    /// `None`: there is no record among them.
    pub record_time_ms: Option<i64>,
}

/// What became of a commit that failed or whose outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// The position was moved, so everything in that transaction was committed.
    Committed,
    /// The position was not moved: repeat the transaction.
    Retry,
    /// Another instance has claimed the partition: stop writing it.
    Fenced,
}

/// Waits until the positions can be read, telling `trouble` why not; `false` when `shutdown` came first. To be called
/// before joining a group: a member that cannot claim would keep its partitions from other instances that can.
pub async fn wait_until_reachable(
    pool: &PgPool,
    shutdown: &CancellationToken,
    mut trouble: impl FnMut(String),
) -> bool {
    let mut backoff = Backoff::of_database();
    loop {
        match sqlx::query("SELECT FROM consumer_positions LIMIT 1").execute(pool).await {
            Ok(_) => return true,
            Err(error) => trouble(format!("PostgreSQL: {error}")),
        }
        tokio::select! {
            () = shutdown.cancelled() => return false,
            () = backoff.pause() => {}
        }
    }
}

/// Claims partitions of one topic for `consumer`: (partition, start offset if it was never read). Waits for an open
/// transaction of the previous claim, so that the returned positions are final. `topic_id` is stored where none is: a
/// position belongs to the log that it was first claimed in, until an operator says otherwise ([`repair`]).
///
/// # Errors
/// The errors of PostgreSQL; nothing is claimed then.
pub async fn claim(
    pool: &PgPool,
    consumer: &str,
    topic: &Arc<str>,
    topic_id: Option<Uuid>,
    partitions: &[(i32, i64)],
) -> Result<Vec<Claim>, sqlx::Error> {
    // Sorted, so that two instances that claim at once cannot deadlock.
    let mut sorted = partitions.to_vec();
    sorted.sort_unstable();
    let (ids, starts): (Vec<i32>, Vec<i64>) = sorted.into_iter().unzip();
    let rows: Vec<(i32, i64, i32, i64)> = sqlx::query_as(
        "INSERT INTO consumer_positions AS p (consumer, topic, partition, next_offset, topic_id, log_epoch)
         SELECT $1, $2, t.partition, t.start_offset, $5,
                COALESCE((SELECT max(o.log_epoch) FROM consumer_positions o
                          WHERE o.topic = $2 AND o.partition = t.partition), 1)
         FROM UNNEST($3::integer[], $4::bigint[]) AS t (partition, start_offset) ORDER BY t.partition
         ON CONFLICT (consumer, topic, partition) DO UPDATE
            SET epoch = p.epoch + 1, topic_id = COALESCE(p.topic_id, EXCLUDED.topic_id), updated_at = now()
         RETURNING partition, epoch, log_epoch, next_offset",
    )
    .bind(consumer)
    .bind(topic.as_ref())
    .bind(ids)
    .bind(starts)
    .bind(topic_id)
    .fetch_all(pool)
    .await?;
    let claim = |(partition, epoch, log_epoch, next_offset)| Claim {
        topic: topic.clone(),
        partition,
        epoch,
        log_epoch,
        next_offset,
    };
    Ok(rows.into_iter().map(claim).collect())
}

/// Append time of the last record before a position, milliseconds since the Unix epoch; `None` while nothing was
/// passed.
pub async fn record_time_ms(
    pool: &PgPool,
    consumer: &str,
    topic: &str,
    partition: i32,
) -> Result<Option<i64>, sqlx::Error> {
    let time: Option<Option<i64>> = sqlx::query_scalar(
        "SELECT (extract(epoch FROM record_time) * 1000)::bigint FROM consumer_positions
         WHERE consumer = $1 AND topic = $2 AND partition = $3",
    )
    .bind(consumer)
    .bind(topic)
    .bind(partition)
    .fetch_optional(pool)
    .await?;
    Ok(time.flatten())
}

/// Which logs the positions of `consumer` in `topic` are in, by partition.
///
/// # Errors
/// The errors of PostgreSQL.
pub async fn log_identities(
    pool: &PgPool,
    consumer: &str,
    topic: &str,
) -> Result<BTreeMap<i32, LogIdentity>, sqlx::Error> {
    let rows: Vec<(i32, Option<Uuid>, Option<i32>)> = sqlx::query_as(
        "SELECT partition, topic_id, leader_epoch FROM consumer_positions WHERE consumer = $1 AND topic = $2",
    )
    .bind(consumer)
    .bind(topic)
    .fetch_all(pool)
    .await?;
    let identity = |(partition, topic_id, leader_epoch)| (partition, LogIdentity { topic_id, leader_epoch });
    Ok(rows.into_iter().map(identity).collect())
}

/// Stores the id of a topic for the positions of `consumer` that were claimed without it.
pub async fn store_topic_id(pool: &PgPool, consumer: &str, topic: &str, topic_id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE consumer_positions SET topic_id = $3 WHERE consumer = $1 AND topic = $2 AND topic_id IS NULL")
        .bind(consumer)
        .bind(topic)
        .bind(topic_id)
        .execute(pool)
        .await?;
    Ok(())
}

/// Stores the leader epoch of records that were read: (claim's epoch, topic, partition, leader epoch; `None`: it is not
/// known). The caller does this before it applies the records, so that the stored leader epoch is never lower than that
/// of the record before the position. A higher one is as good: the log holds its records only if it holds those before
/// them. Positions that somebody else has claimed stay as they are.
///
/// # Errors
/// The errors of PostgreSQL.
pub async fn store_leader_epochs(
    pool: &PgPool,
    consumer: &str,
    read: &[(i64, Arc<str>, i32, Option<i32>)],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE consumer_positions AS p SET leader_epoch = t.leader_epoch
         FROM UNNEST($2::bigint[], $3::text[], $4::integer[], $5::integer[])
              AS t (epoch, topic, partition, leader_epoch)
         WHERE p.consumer = $1 AND p.topic = t.topic AND p.partition = t.partition AND p.epoch = t.epoch",
    )
    .bind(consumer)
    .bind(read.iter().map(|(epoch, ..)| *epoch).collect::<Vec<_>>())
    .bind(read.iter().map(|(_, topic, ..)| topic.as_ref()).collect::<Vec<_>>())
    .bind(read.iter().map(|(.., partition, _)| *partition).collect::<Vec<_>>())
    .bind(read.iter().map(|(.., leader_epoch)| *leader_epoch).collect::<Vec<_>>())
    .execute(pool)
    .await?;
    Ok(())
}

/// Every position of `consumer`: (topic, partition, epoch, next offset).
pub async fn current_positions(pool: &PgPool, consumer: &str) -> Result<Vec<(String, i32, i64, i64)>, sqlx::Error> {
    let query =
        sqlx::query_as("SELECT topic, partition, epoch, next_offset FROM consumer_positions WHERE consumer = $1");
    query.bind(consumer).fetch_all(pool).await
}

/// Moves positions inside the caller's transaction; one answer per move, in order. `false`: the row did not match, so
/// roll back and ask [`commit_outcomes`].
pub async fn advance(
    connection: &mut PgConnection,
    consumer: &str,
    moves: &[Advance],
) -> Result<Vec<bool>, sqlx::Error> {
    let columns = Columns::of(moves);
    let moved: Vec<(String, i32)> = sqlx::query_as(
        "UPDATE consumer_positions AS p
         SET next_offset = t.next_offset, updated_at = now(),
             record_time = COALESCE(to_timestamp(t.record_ms::double precision / 1000), p.record_time)
         FROM UNNEST($2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
              AS t (topic, partition, epoch, expected, next_offset, record_ms)
         WHERE p.consumer = $1 AND p.topic = t.topic AND p.partition = t.partition
               AND p.epoch = t.epoch AND p.next_offset = t.expected
         RETURNING p.topic, p.partition",
    )
    .bind(consumer)
    .bind(columns.topics)
    .bind(columns.partitions)
    .bind(columns.epochs)
    .bind(columns.expected)
    .bind(columns.next)
    .bind(columns.record_times)
    .fetch_all(connection)
    .await?;
    Ok(moves
        .iter()
        .map(|m| moved.iter().any(|(topic, partition)| **topic == *m.topic && *partition == m.partition))
        .collect())
}

/// The outcome of each move, after an [`advance`] that did not match or a commit whose outcome is unknown, in the order
/// of `moves`.
pub async fn commit_outcomes(
    pool: &PgPool,
    consumer: &str,
    moves: &[Advance],
) -> Result<Vec<CommitOutcome>, sqlx::Error> {
    let columns = Columns::of(moves);
    let rows: Vec<(String, i32, i64, i64)> = sqlx::query_as(
        "SELECT p.topic, p.partition, p.epoch, p.next_offset
         FROM consumer_positions p
              JOIN UNNEST($2::text[], $3::integer[]) AS t (topic, partition) USING (topic, partition)
         WHERE p.consumer = $1",
    )
    .bind(consumer)
    .bind(columns.topics)
    .bind(columns.partitions)
    .fetch_all(pool)
    .await?;
    let outcome_of = |m: &Advance| {
        let row = rows.iter().find(|(topic, partition, ..)| **topic == *m.topic && *partition == m.partition);
        match row {
            Some((.., epoch, next)) if *epoch == m.epoch && *next == m.next => CommitOutcome::Committed,
            Some((.., epoch, next)) if *epoch == m.epoch && *next == m.expected => CommitOutcome::Retry,
            // Another epoch, no row, or an offset that nobody of this epoch wrote: not ours to write.
            _ => CommitOutcome::Fenced,
        }
    };
    Ok(moves.iter().map(outcome_of).collect())
}

/// Moves as one array per column, the shape that `UNNEST` takes.
struct Columns {
    topics: Vec<String>,
    partitions: Vec<i32>,
    epochs: Vec<i64>,
    expected: Vec<i64>,
    next: Vec<i64>,
    record_times: Vec<Option<i64>>,
}

impl Columns {
    fn of(moves: &[Advance]) -> Self {
        Self {
            topics: moves.iter().map(|m| m.topic.to_string()).collect(),
            partitions: moves.iter().map(|m| m.partition).collect(),
            epochs: moves.iter().map(|m| m.epoch).collect(),
            expected: moves.iter().map(|m| m.expected).collect(),
            next: moves.iter().map(|m| m.next).collect(),
            // Within what PostgreSQL can hold: a producer may have chosen the time.
            record_times: moves.iter().map(|m| m.record_time_ms.map(|ms| to_millis(from_millis(ms)))).collect(),
        }
    }
}
