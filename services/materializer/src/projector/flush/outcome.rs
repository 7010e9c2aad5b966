//! Outcomes of a flush, of one of its transactions, and of one attempt at a transaction.

use kafka::partition::TopicPartition;

use crate::projector::batch::OwnedPartition;

/// Outcome of a batch.
#[derive(Debug, Default)]
pub(crate) struct FlushOutcome {
    /// Partitions that were written, with their new positions.
    pub(crate) written: Vec<(TopicPartition, OwnedPartition)>,
    /// Partitions that another instance has claimed, with the epoch that is no longer valid.
    pub(crate) fenced: Vec<(TopicPartition, i64)>,
}

/// Outcome of a chunk. Only [`Self::Committed`] has written anything.
pub(super) enum ChunkOutcome {
    Committed,
    /// Another instance has claimed these partitions.
    Fenced(Vec<TopicPartition>),
    /// A time partition was dropped since the chunk was prepared.
    MissingTimePartition,
    /// A statement exceeded the statement timeout. Half of the chunk may take less.
    TimedOut(sqlx::Error),
    /// PostgreSQL rejects some row.
    Rejected(sqlx::Error),
}

/// Why a transaction was rolled back.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransactionError {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    #[error("another writer took a dedup key or an event id meanwhile")]
    Conflict,
}
