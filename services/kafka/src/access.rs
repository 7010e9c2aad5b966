//! Refusals by Kafka's authorizer, and failed connections, as errors that say why. A retry does not help before an
//! operator has granted the right, or corrected the options.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use super::KafkaConfig;

/// How long a connection may take to fail.
const DIAGNOSIS_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether Kafka refuses this user something, for good.
pub(crate) fn is_refused(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
        )
    )
}

/// Why the metadata of a topic have no partitions.
pub(crate) fn reason_of(topic: &str, error: Option<RDKafkaRespErr>) -> String {
    match error.map(RDKafkaErrorCode::from) {
        None | Some(RDKafkaErrorCode::UnknownTopicOrPartition) => format!("topic {topic} does not exist"),
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => refusal(&format!("topic {topic}")),
        Some(error) => format!("topic {topic}: {error}"),
    }
}

/// What is refused, and what to do.
pub(crate) fn refusal(what: &str) -> String {
    format!("Kafka refuses this user a right on {what}; grant what `triggers topics acls` prints for this role")
}

/// Why the brokers cannot be reached: the network, TLS or the password. The error of a call is only a timeout, and an
/// administration client does not report failures of its connections. So a consumer connects once more. Blocking.
pub(crate) fn connection_failure(kafka: &KafkaConfig) -> Option<String> {
    let mut config = kafka.admin_client("diagnosis");
    // Without a subscriber for logs, librdkafka would not report a failure.
    config.set("group.id", &kafka.topics.group_materializer).set_log_level(RDKafkaLogLevel::Error);
    let client: BaseConsumer<LastFailure> = config.create_with_context(LastFailure::default()).ok()?;
    let until = Instant::now() + DIAGNOSIS_TIMEOUT;
    while Instant::now() < until {
        drop(client.poll(Duration::from_millis(50)));
        if let Some(text) = client.context().text() {
            return Some(text);
        }
    }
    None
}

/// Keeps why the last connection failed.
#[derive(Default)]
struct LastFailure(Mutex<Option<String>>);

impl LastFailure {
    fn text(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for LastFailure {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "FAIL" {
            // The text starts with the thread's name in brackets.
            let text = message.split_once("]: ").map_or(message, |(_, text)| text);
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
        }
    }
}

impl ConsumerContext for LastFailure {}
