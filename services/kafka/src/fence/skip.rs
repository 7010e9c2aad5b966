//! Skipping a range of the log that nobody can read: by an operator's command only, because it gives records up.
//!
//! What a consumer skipped is stored in `log_skips`, so that a later reader of the log skips the same range: a
//! reader that could decode it would otherwise show what the first reading gave up.

use std::sync::Arc;

use sqlx::postgres::PgPool;

use super::repair::{CheckedPosition, StoredPosition};
use crate::log_reader::OffsetRange;

/// Why a range cannot be skipped.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// No consumer has a position there.
    #[error("there is no such position; see: triggers positions list")]
    Missing,
    /// Without the bounds of the log nothing can be checked.
    #[error("{0}: the brokers did not report where its log starts and ends")]
    Unknown(String),
    /// The log itself is in question.
    #[error("{0} is outside of its log; repair it first: triggers positions repair")]
    LogMismatch(String),
    /// It would go back, or beyond what can be read.
    #[error("{consumer} at {topic}[{partition}]: {to} is not between its position {next} and the end of its log {end}")]
    NotAhead {
        /// Whose.
        consumer: String,
        /// Full topic name.
        topic: String,
        /// Partition.
        partition: i32,
        /// Where it would go.
        to: i64,
        /// Where it is.
        next: i64,
        /// Where the log ends.
        end: i64,
    },
    /// One of them would skip more than the other one.
    #[error("the consumers are at different offsets, {0}; name one with --consumer")]
    Apart(String),
}

/// Whether all of `named`, the positions of one partition, can skip to `to`.
pub fn check(named: &[&CheckedPosition], to: i64) -> Result<(), Refusal> {
    let Some(first) = named.first() else { return Err(Refusal::Missing) };
    for one in named {
        let StoredPosition { consumer, topic, partition, next_offset, .. } = &one.position;
        let name = format!("{consumer} at {topic}[{partition}]");
        let Some(bounds) = one.log.as_ref().map(|log| log.bounds) else { return Err(Refusal::Unknown(name)) };
        if one.mismatch().is_some() {
            return Err(Refusal::LogMismatch(name));
        }
        if to <= *next_offset || to > bounds.end {
            let (consumer, topic, partition) = (consumer.clone(), topic.clone(), *partition);
            return Err(Refusal::NotAhead { consumer, topic, partition, to, next: *next_offset, end: bounds.end });
        }
    }
    if named.iter().any(|one| one.position.next_offset != first.position.next_offset) {
        let at = |one: &&CheckedPosition| format!("{} at {}", one.position.consumer, one.position.next_offset);
        return Err(Refusal::Apart(named.iter().map(at).collect::<Vec<_>>().join(", ")));
    }
    Ok(())
}

/// What it gives up, for people.
pub fn line(position: &StoredPosition, to: i64) -> String {
    let StoredPosition { consumer, topic, partition, next_offset, .. } = position;
    format!(
        "{consumer} at {topic}[{partition}]: from {next_offset} to {to}; {} offsets are skipped, and what they hold is \
         given up",
        to - next_offset
    )
}

/// Moves the positions, which are of one partition, to `to`, stores what is skipped, and has them claimed again.
/// `false`: one of them has moved since it was read, and nothing was changed.
///
/// # Errors
/// As PostgreSQL reports them; nothing was changed then.
pub async fn skip(pool: &PgPool, positions: &[&StoredPosition], to: i64) -> Result<bool, sqlx::Error> {
    let mut transaction = runtime::postgres::begin(pool).await?;
    for position in positions {
        // Time and leader epoch of skipped records are unknown. The stored leader epoch may be lower than that of the
        // record before the new position, and the log would look as if it had lost that record.
        let moved = sqlx::query(
            "UPDATE consumer_positions
             SET epoch = epoch + 1, next_offset = $6, record_time = NULL, leader_epoch = NULL, updated_at = now()
             WHERE consumer = $1 AND topic = $2 AND partition = $3 AND log_epoch = $4 AND next_offset = $5",
        )
        .bind(&position.consumer)
        .bind(&position.topic)
        .bind(position.partition)
        .bind(position.log_epoch)
        .bind(position.next_offset)
        .bind(to)
        .execute(&mut *transaction)
        .await?;
        if moved.rows_affected() != 1 {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO log_skips AS s (consumer, topic, partition, log_epoch, from_offset, to_offset)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (consumer, topic, partition, log_epoch, from_offset)
                 DO UPDATE SET to_offset = GREATEST(s.to_offset, EXCLUDED.to_offset)",
        )
        .bind(&position.consumer)
        .bind(&position.topic)
        .bind(position.partition)
        .bind(position.log_epoch)
        .bind(position.next_offset)
        .bind(to)
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    Ok(true)
}

/// What `consumer` skipped of the logs that its positions are in.
///
/// # Errors
/// As PostgreSQL reports them.
pub async fn skipped_ranges(pool: &PgPool, consumer: &str) -> Result<Vec<OffsetRange>, sqlx::Error> {
    let rows: Vec<(String, i32, i64, i64)> = sqlx::query_as(
        "SELECT s.topic, s.partition, s.from_offset, s.to_offset
         FROM log_skips s JOIN consumer_positions p USING (consumer, topic, partition, log_epoch)
         WHERE s.consumer = $1 ORDER BY s.topic, s.partition, s.from_offset",
    )
    .bind(consumer)
    .fetch_all(pool)
    .await?;
    let span =
        |(topic, partition, from, to)| OffsetRange { topic: Arc::from(String::as_str(&topic)), partition, from, to };
    Ok(rows.into_iter().map(span).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::LogBounds;
    use crate::log_identity::LogIdentity;
    use crate::log_state::{LogState, mismatch};

    fn known(consumer: &str, next_offset: i64) -> CheckedPosition {
        let (consumer, topic) = (consumer.to_owned(), "events".to_owned());
        let identity = LogIdentity::default();
        let position = StoredPosition { consumer, topic, partition: 3, next_offset, log_epoch: 1, identity };
        let bounds = LogBounds { start: 2, end: 10 };
        let mismatch = mismatch(&position.in_partition(), None, bounds);
        CheckedPosition { position, log: Some(LogState { bounds, topic_id: None, mismatch }) }
    }

    #[test]
    fn only_a_range_ahead_of_the_position_is_skipped() {
        let at_5 = known("m", 5);
        assert_eq!([6, 10].map(|to| check(&[&at_5], to)), [Ok(()), Ok(())]);
        for to in [0, 5, 11] {
            assert!(matches!(check(&[&at_5], to), Err(Refusal::NotAhead { .. })), "{to}");
        }
        assert_eq!(check(&[&known("m", 1)], 6), Err(Refusal::LogMismatch("m at events[3]".to_owned())));
        assert_eq!(check(&[], 6), Err(Refusal::Missing));
        let unknown = CheckedPosition { log: None, ..at_5 };
        assert!(matches!(check(&[&unknown], 6), Err(Refusal::Unknown(_))));
    }

    #[test]
    fn consumers_apart_are_skipped_one_by_one() {
        let (dispatcher, materializer) = (known("dispatcher", 5), known("materializer", 7));
        let said = check(&[&dispatcher, &materializer], 8).unwrap_err().to_string();
        assert!(said.contains("dispatcher at 5, materializer at 7") && said.contains("--consumer"), "{said}");
        assert_eq!(check(&[&dispatcher, &known("materializer", 5)], 8), Ok(()));
    }
}
