//! Fatal errors of the dispatcher.

use crate::log::commit::CommitError;

/// Why the dispatcher stopped. Transient failures are retried and are not among these.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DispatchError {
    /// The consumer cannot be made.
    #[error("the consumer could not be made: {0}")]
    Consumer(#[from] rdkafka::error::KafkaError),
    /// The schedule cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A part of it panicked.
    #[error("a task of the dispatcher ended unexpectedly: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}
