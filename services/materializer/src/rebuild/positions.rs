//! Positions in `consumer_positions`: those of the live view, and those of a rebuild or replay.

use std::collections::BTreeMap;

use kafka::partition::TopicPartition;
use schemas::topics::TopicNames;
use schemas::unix_time::to_millis;
use sqlx::postgres::{PgConnection, PgPool};
use time::OffsetDateTime;

use super::error::RebuildError;
use crate::columns::column;
use crate::projector::CONSUMER;

/// Name of a rebuild in `consumer_positions`.
pub(super) const REBUILD: &str = "materializer-rebuild";

/// Name of a replay in `consumer_positions`. A replay that is killed leaves its rows; nothing continues it.
pub const REPLAY: &str = "materializer-replay";

/// Where to stop reading: the next offset of each topic partition.
pub(super) type TargetOffsets = BTreeMap<TopicPartition, i64>;

/// A row of `consumer_positions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ViewPosition {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) log_epoch: i32,
    pub(super) next_offset: i64,
}

impl ViewPosition {
    pub(super) fn topic_partition(&self) -> TopicPartition {
        (self.topic.as_str().into(), self.partition)
    }
}

/// The positions of the live view. Fails if some are of other topics than `topics`.
pub(super) async fn live_positions(pool: &PgPool, topics: &TopicNames) -> Result<Vec<ViewPosition>, RebuildError> {
    let live = positions_of(&mut *pool.acquire().await?, CONSUMER).await?;
    // With other topics than those of the view, a rebuild would find no record, as in a log without events.
    let ours = [&topics.events, &topics.acks, &topics.deliveries];
    match live.iter().find(|position| !ours.contains(&&position.topic)) {
        None => Ok(live),
        Some(position) => {
            let message = format!(
                "the view has positions of topic {}, besides {}, {} and {}; is the topic prefix right? If that topic \
                 is no longer used, stop the materializers and run: DELETE FROM consumer_positions WHERE \
                 consumer = '{}' AND topic = '{}'",
                position.topic, ours[0], ours[1], ours[2], CONSUMER, position.topic
            );
            Err(RebuildError::Unsuitable(message))
        }
    }
}

/// The positions of the live view as targets.
pub(super) async fn live_targets(pool: &PgPool, topics: &TopicNames) -> Result<TargetOffsets, RebuildError> {
    Ok(targets(&live_positions(pool, topics).await?))
}

pub(super) fn targets(positions: &[ViewPosition]) -> TargetOffsets {
    positions.iter().map(|position| (position.topic_partition(), position.next_offset)).collect()
}

pub(super) async fn positions_of(
    connection: &mut PgConnection,
    consumer: &str,
) -> Result<Vec<ViewPosition>, sqlx::Error> {
    read(
        connection,
        consumer,
        "SELECT topic, partition, log_epoch, next_offset FROM consumer_positions WHERE consumer = $1
         ORDER BY topic, partition",
    )
    .await
}

/// Locks the positions of the live view. All its flushes wait until the transaction ends.
pub(super) async fn lock_live(connection: &mut PgConnection) -> Result<Vec<ViewPosition>, sqlx::Error> {
    read(
        connection,
        CONSUMER,
        "SELECT topic, partition, log_epoch, next_offset FROM consumer_positions WHERE consumer = $1
         ORDER BY topic, partition FOR UPDATE",
    )
    .await
}

async fn read(
    connection: &mut PgConnection,
    consumer: &str,
    statement: &'static str,
) -> Result<Vec<ViewPosition>, sqlx::Error> {
    let rows: Vec<(String, i32, i32, i64)> = sqlx::query_as(statement).bind(consumer).fetch_all(connection).await?;
    let position =
        |(topic, partition, log_epoch, next_offset)| ViewPosition { topic, partition, log_epoch, next_offset };
    Ok(rows.into_iter().map(position).collect())
}

/// Stores start positions for `consumer`, which has none.
pub(super) async fn insert(
    connection: &mut PgConnection,
    consumer: &str,
    positions: &[ViewPosition],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO consumer_positions (consumer, topic, partition, log_epoch, next_offset)
         SELECT $1, * FROM UNNEST($2::text[], $3::integer[], $4::integer[], $5::bigint[])",
    )
    .bind(consumer)
    .bind(column(positions, |position| position.topic.as_str()))
    .bind(column(positions, |position| position.partition))
    .bind(column(positions, |position| position.log_epoch))
    .bind(column(positions, |position| position.next_offset))
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn delete(connection: &mut PgConnection, consumer: &str) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM consumer_positions WHERE consumer = $1").bind(consumer).execute(connection).await?;
    Ok(())
}

/// Milliseconds since the Unix epoch, at least 0: no log reaches back further, and Kafka takes no negative time.
pub(super) fn epoch_millis(time: OffsetDateTime) -> i64 {
    to_millis(time).max(0)
}
