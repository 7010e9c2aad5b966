//! Repair of positions that lie outside of their log: by an operator's command only, because it gives records up.
//!
//! A log epoch belongs to a partition of a topic, not to one consumer: what one consumer stored about a log position (a
//! row of the schedule, a duplicate decision) is compared with another one's position. So another log starts another
//! epoch for all consumers of that partition, in one transaction. The same log, however much of it was deleted, keeps
//! its epoch: its offsets mean what they meant, and what was decided about them (refused, a duplicate) still holds.
//!
//! What a repair would do is decided in [`plan`], before anything is changed.

mod plan;

use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::log_identity::{LogIdentity, PartitionPosition};

pub use plan::{CheckedPosition, Refusal, Repair, RepairMode, check, plan};

/// One consumer's position in one partition, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPosition {
    /// Name of the consumer.
    pub consumer: String,
    /// Full topic name.
    pub topic: String,
    /// Partition of that topic.
    pub partition: i32,
    /// Offset of the next record.
    pub next_offset: i64,
    /// In which log that offset is.
    pub log_epoch: i32,
    /// Which log of Kafka's that is.
    pub identity: LogIdentity,
}

impl StoredPosition {
    /// It, without its topic.
    pub fn in_partition(&self) -> PartitionPosition {
        PartitionPosition { partition: self.partition, next_offset: self.next_offset, identity: self.identity }
    }
}

/// Consumer, topic, partition, next offset, log epoch, topic id, leader epoch.
type StoredRow = (String, String, i32, i64, i32, Option<Uuid>, Option<i32>);

/// Every position there is, by consumer, topic and partition.
pub async fn positions(pool: &PgPool) -> Result<Vec<StoredPosition>, sqlx::Error> {
    let rows: Vec<StoredRow> = sqlx::query_as(
        "SELECT consumer, topic, partition, next_offset, log_epoch, topic_id, leader_epoch
         FROM consumer_positions ORDER BY consumer, topic, partition",
    )
    .fetch_all(pool)
    .await?;
    let position = |(consumer, topic, partition, next_offset, log_epoch, topic_id, leader_epoch)| StoredPosition {
        consumer,
        topic,
        partition,
        next_offset,
        log_epoch,
        identity: LogIdentity { topic_id, leader_epoch },
    };
    Ok(rows.into_iter().map(position).collect())
}

/// Whether the log that is read from now on is the one of the stored positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogChange {
    /// It is: offsets mean what they meant.
    SameLog,
    /// It is another one: its offsets have nothing to do with those of the log before.
    NewLog,
}

/// Sets positions of one partition, those of `moved` to `next_offset`, and has them claimed again. Another log starts
/// the partition's next log epoch for all consumers. `topic_id` is the topic's id now: the operator accepts the log as
/// it is. Answers the log epoch; `None`: a position has moved since it was read, and nothing was changed.
///
/// # Errors
/// The errors of PostgreSQL; nothing was changed then.
pub async fn repair(
    pool: &PgPool,
    topic: &str,
    partition: i32,
    moved: &[&StoredPosition],
    next_offset: i64,
    log: LogChange,
    topic_id: Option<Uuid>,
) -> Result<Option<i32>, sqlx::Error> {
    let mut transaction = runtime::postgres::begin(pool).await?;
    let stored: Vec<(String, i64, i32)> = sqlx::query_as(
        "SELECT consumer, next_offset, log_epoch FROM consumer_positions
         WHERE topic = $1 AND partition = $2 ORDER BY consumer FOR UPDATE",
    )
    .bind(topic)
    .bind(partition)
    .fetch_all(&mut *transaction)
    .await?;
    let is_as_seen = |seen: &&StoredPosition| {
        stored.iter().any(|(consumer, next, log_epoch)| {
            *consumer == seen.consumer && (*next, *log_epoch) == (seen.next_offset, seen.log_epoch)
        })
    };
    if moved.is_empty() || !moved.iter().all(is_as_seen) {
        return Ok(None);
    }
    let newest = stored.iter().map(|(.., log_epoch)| *log_epoch).max().unwrap_or(0);
    let log_epoch = if log == LogChange::NewLog { newest.saturating_add(1) } else { newest };
    // Time and leader epoch belong to a record that is not before the position any more.
    sqlx::query(
        "UPDATE consumer_positions
         SET epoch = epoch + 1, log_epoch = $3, topic_id = $7, leader_epoch = NULL, updated_at = now(),
             next_offset = CASE WHEN consumer = ANY($4) THEN $5 ELSE next_offset END,
             record_time = CASE WHEN consumer = ANY($4) THEN NULL ELSE record_time END
         WHERE topic = $1 AND partition = $2 AND ($6 OR consumer = ANY($4))",
    )
    .bind(topic)
    .bind(partition)
    .bind(log_epoch)
    .bind(moved.iter().map(|position| position.consumer.as_str()).collect::<Vec<_>>())
    .bind(next_offset)
    .bind(log == LogChange::NewLog)
    .bind(topic_id)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Some(log_epoch))
}
