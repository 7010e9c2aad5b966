//! Errors of rebuild and replay.

use kafka::log_reader::ReadError;
use rdkafka::error::KafkaError;

#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Another process holds the lock.
    #[error("another rebuild, replay or erasure is running: {0}")]
    Busy(String),
    /// The request does not fit the log or the live view; the text says what to do.
    #[error("{0}")]
    Unsuitable(String),
    #[error("the log could not be read: {0}")]
    Log(#[from] ReadError),
    #[error("Kafka did not answer: {0}")]
    Kafka(#[from] KafkaError),
    #[error("PostgreSQL: {0}")]
    Sql(#[from] sqlx::Error),
    /// The view could not be written.
    #[error(transparent)]
    View(#[from] crate::projector::ProjectorError),
}
