use crate::log::commit::CommitError;

/// Errors that stop the dispatcher. Transient failures are retried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DispatchError {
    #[error("the Kafka consumer could not be created: {0}")]
    Consumer(#[from] rdkafka::error::KafkaError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("a task of the dispatcher panicked: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}
