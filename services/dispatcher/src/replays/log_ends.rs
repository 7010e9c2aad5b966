//! Where the logs ended when a replay of events started, and whether the consumers have reached these ends.
//!
//! Together they answer which events have no delivery, although attempts that are made straight from the log leave no
//! row. Once the dispatcher has reached the end of the log of events, the report of each such attempt is on the log of
//! reports; once the view has reached the end which that has then, it shows them. What is neither there nor in the
//! schedule was never sent, and never will be.

use kafka::{KafkaConfig, log_reader};
use rdkafka::error::KafkaError;
use schemas::ids::ReplayId;
use schemas::position::LogPosition;
use schemas::topics::MATERIALIZER;
use sqlx::postgres::PgConnection;

/// Start and end of the log of one partition.
pub(super) type Ends = Vec<(i32, i64, i64)>;

/// The events of one partition that a replay reads, as the view counts log epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub partition: i32,
    /// Log epoch and offset; not part of the range.
    pub after: (i32, i64),
    /// Log epoch and offset; not part of the range.
    pub end: (i32, i64),
}

/// Reads the ends of all partitions of a topic.
pub(super) async fn read(kafka: &KafkaConfig, topic: &str) -> Result<Ends, KafkaError> {
    log_reader::bounds(kafka, topic).await
}

/// Notes ends of a topic that these consumers are to reach.
pub(super) async fn note(
    connection: &mut PgConnection,
    id: ReplayId,
    consumers: &[&str],
    topic: &str,
    ends: &[(i32, i64, i64)],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO replay_log_ends (replay_id, consumer, topic, partition, log_epoch, log_end, has_records)
         SELECT $1, c.consumer, $3, t.partition, COALESCE(p.log_epoch, 1), t.log_end, t.log_end > t.log_start
         FROM UNNEST($2::text[]) AS c (consumer)
              CROSS JOIN UNNEST($4::integer[], $5::bigint[], $6::bigint[]) AS t (partition, log_start, log_end)
              LEFT JOIN consumer_positions p
                ON p.consumer = c.consumer AND p.topic = $3 AND p.partition = t.partition
         ON CONFLICT DO NOTHING",
    )
    .bind(id.as_uuid())
    .bind(consumers)
    .bind(topic)
    .bind(ends.iter().map(|(partition, ..)| *partition).collect::<Vec<_>>())
    .bind(ends.iter().map(|(_, start, _)| *start).collect::<Vec<_>>())
    .bind(ends.iter().map(|(.., end)| *end).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether the consumers have reached all noted ends.
pub(super) async fn are_reached(connection: &mut PgConnection, id: ReplayId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT NOT EXISTS (
             SELECT FROM replay_log_ends e
             WHERE e.replay_id = $1 AND e.has_records AND NOT EXISTS (
                 SELECT FROM consumer_positions p
                 WHERE p.consumer = e.consumer AND p.topic = e.topic AND p.partition = e.partition
                       AND (p.log_epoch, p.next_offset) >= (e.log_epoch, e.log_end)))",
    )
    .bind(id.as_uuid())
    .fetch_one(connection)
    .await
}

/// What a replay has to read after its cursor: the events before the noted ends, partition by partition.
pub(super) async fn ranges(
    connection: &mut PgConnection,
    id: ReplayId,
    topic: &str,
    cursor: Option<LogPosition>,
) -> Result<Vec<Range>, sqlx::Error> {
    let ends: Vec<(i32, i32, i64)> = sqlx::query_as(
        "SELECT partition, log_epoch, log_end FROM replay_log_ends
         WHERE replay_id = $1 AND consumer = $2 AND topic = $3 AND partition >= $4 ORDER BY partition",
    )
    .bind(id.as_uuid())
    .bind(MATERIALIZER)
    .bind(topic)
    .bind(cursor.map_or(0, |cursor| cursor.partition))
    .fetch_all(connection)
    .await?;
    let range = |(partition, log_epoch, log_end)| Range {
        partition,
        after: after(cursor, partition),
        end: (log_epoch, log_end),
    };
    Ok(ends.into_iter().map(range).collect())
}

/// All that the view has, for a count.
pub(super) async fn all_ranges(connection: &mut PgConnection) -> Result<Vec<Range>, sqlx::Error> {
    let partitions: Vec<i32> =
        sqlx::query_scalar("SELECT DISTINCT partition FROM consumer_positions WHERE consumer = $1 ORDER BY partition")
            .bind(MATERIALIZER)
            .fetch_all(connection)
            .await?;
    let range = |partition| Range { partition, after: after(None, partition), end: (i32::MAX, i64::MAX) };
    Ok(partitions.into_iter().map(range).collect())
}

/// Moves the start of ranges behind a cursor, and drops those before it.
pub(super) fn continue_after(ranges: Vec<Range>, cursor: LogPosition) -> Vec<Range> {
    let is_left = |range: &Range| range.partition >= cursor.partition;
    let moved = |range: Range| Range { after: after(Some(cursor), range.partition), ..range };
    ranges.into_iter().filter(is_left).map(moved).collect()
}

fn after(cursor: Option<LogPosition>, partition: i32) -> (i32, i64) {
    match cursor {
        Some(cursor) if cursor.partition == partition => (cursor.log_epoch, cursor.offset),
        _ => (i32::MIN, i64::MIN),
    }
}
