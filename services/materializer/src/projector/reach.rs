//! Up to when the view has read the events. What an unread event may ask for is needed for as long as that event is
//! unread, whatever the clock says: a view that goes on from an old backup, or reads a long log for the first time, is
//! days behind it.

use std::collections::BTreeMap;

use platform::kafka::{KafkaConfig, log_reader};
use rdkafka::error::KafkaError;
use sqlx::postgres::PgPool;
use time::OffsetDateTime;

use super::CONSUMER;

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReachError {
    #[error("PostgreSQL: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("the end of the log could not be read: {0}")]
    Log(#[from] KafkaError),
}

/// Every event that is not in the view yet was appended after this time; `None`: there is none, so the clock counts.
pub(super) async fn of_events(pool: &PgPool, kafka: &KafkaConfig) -> Result<Option<OffsetDateTime>, ReachError> {
    let topic = &kafka.topics.events;
    // Before the log is asked where it ends: what is at that end has left nothing out that was there when the positions
    // were read.
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

/// A partition that is read to its end is not behind, however old its last record. One that is not was read up to its
/// last record's time; and one of which nothing was read may hold events of any age. It holds back until it is read (or
/// repaired, where it lies outside of its log): readiness is red all the while, and what is kept for it meanwhile is no
/// more than came in that time.
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
    fn a_partition_that_is_read_to_its_end_or_has_no_record_is_not_behind() {
        let positions = BTreeMap::from([(0, (7, at(100))), (1, (7, None))]);
        assert_eq!(oldest(&positions, &[(0, 2, 7), (1, 2, 7), (2, 0, 0), (3, 9, 9)]), None);
        assert_eq!(oldest(&positions, &[]), None);
    }

    #[test]
    fn what_is_unread_is_younger_than_the_last_record_that_was_read_or_may_be_of_any_age() {
        let positions = BTreeMap::from([(0, (5, at(100))), (1, (6, at(90))), (2, (7, at(10))), (3, (0, None))]);
        assert_eq!(oldest(&positions, &[(0, 2, 7), (1, 2, 7), (2, 2, 7)]), at(90));
        assert_eq!(oldest(&positions, &[(0, 2, 7), (3, 0, 1)]), at(0), "nothing was read of it");
        assert_eq!(oldest(&positions, &[(0, 2, 7), (4, 0, 1)]), at(0), "nobody has claimed it yet");
        assert_eq!(oldest(&positions, &[(2, 0, 3)]), at(10), "the log was made anew");
    }
}
