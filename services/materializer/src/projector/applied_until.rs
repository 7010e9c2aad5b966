//! Up to which append time the view has applied all events. Dedup keys and pending effects are kept for events that are
//! not applied yet, whatever the clock says: a view that was restored from an old backup, or that reads a long log for
//! the first time, is days behind.

use std::collections::BTreeMap;

use kafka::{KafkaConfig, log_reader};
use rdkafka::error::KafkaError;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::CONSUMER;

#[derive(Debug, thiserror::Error)]
pub(super) enum AppliedUntilError {
    #[error("PostgreSQL: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("the end of the log could not be read: {0}")]
    Log(#[from] KafkaError),
}

/// Every event that is not in the view yet was appended after this time; `None`: the view has all events, so the clock
/// counts.
pub(super) async fn applied_until(
    pool: &PgPool,
    kafka: &KafkaConfig,
) -> Result<Option<OffsetDateTime>, AppliedUntilError> {
    let topic = &kafka.topics.events;
    // Positions first, then the ends of the log: a position that equals the later end is past every record that
    // existed when the positions were read.
    let rows: Vec<(i32, i64, Option<OffsetDateTime>)> = sqlx::query_as(
        "SELECT partition, next_offset, record_time FROM consumer_positions WHERE consumer = $1 AND topic = $2",
    )
    .bind(CONSUMER)
    .bind(topic)
    .fetch_all(pool)
    .await?;
    let positions =
        rows.into_iter().map(|(partition, next_offset, record_time)| (partition, (next_offset, record_time))).collect();
    Ok(oldest(&positions, &log_reader::bounds(kafka, topic).await?))
}

/// A partition whose position is at the end of its log is not behind, however old its last record. Any other partition
/// counts with the time of its last applied record, or with the oldest time of all where nothing was read: its events
/// may be of any age. Nothing is deleted until that partition is read, or repaired where its position is outside of its
/// log. Meanwhile the materializer is unhealthy, and the extra rows are those of that time.
fn oldest(
    positions: &BTreeMap<i32, (i64, Option<OffsetDateTime>)>,
    bounds: &[(i32, i64, i64)],
) -> Option<OffsetDateTime> {
    let behind = |(partition, low, high): &(i32, i64, i64)| {
        let position = positions.get(partition);
        let is_read = low == high || position.is_some_and(|(next_offset, _)| next_offset == high);
        (!is_read).then(|| position.and_then(|(_, record_time)| *record_time).unwrap_or(OffsetDateTime::UNIX_EPOCH))
    };
    bounds.iter().filter_map(behind).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<OffsetDateTime> {
        Some(OffsetDateTime::from_unix_timestamp(seconds).unwrap())
    }

    #[test]
    fn a_partition_at_its_end_or_without_records_is_not_behind() {
        let positions = BTreeMap::from([(0, (7, at(100))), (1, (7, None))]);
        assert_eq!(oldest(&positions, &[(0, 2, 7), (1, 2, 7), (2, 0, 0), (3, 9, 9)]), None);
        assert_eq!(oldest(&positions, &[]), None);
    }

    #[test]
    fn an_unread_event_is_newer_than_the_last_applied_record() {
        let positions = BTreeMap::from([(0, (5, at(100))), (1, (6, at(90))), (2, (7, at(10))), (3, (0, None))]);
        assert_eq!(oldest(&positions, &[(0, 2, 7), (1, 2, 7), (2, 2, 7)]), at(90));
        assert_eq!(oldest(&positions, &[(0, 2, 7), (3, 0, 1)]), at(0), "nothing was read: events of any age");
        assert_eq!(oldest(&positions, &[(0, 2, 7), (4, 0, 1)]), at(0), "no position yet: events of any age");
        assert_eq!(oldest(&positions, &[(2, 0, 3)]), at(10), "the topic was recreated");
    }
}
