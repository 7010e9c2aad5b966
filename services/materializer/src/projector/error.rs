//! Errors that stop the projector. It retries or waits for everything else.

use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum ProjectorError {
    #[error("the Kafka consumer could not be created: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// A statement failed in a way that a retry does not cure: a fault of the program or of the installation.
    #[error("the view cannot be written: {0}")]
    View(#[source] sqlx::Error),
    /// The task of a flush panicked or was aborted.
    #[error("a flush was interrupted: {0}")]
    Interrupted(String),
    /// The shutdown waited in vain for the running transaction. Its records are read again.
    #[error("the running flush did not finish within {waited:?}")]
    FlushNotFinished { waited: Duration },
}
