//! A log that lost records while it was read (retention, truncation, an unclean election, a topic that was created
//! again): which partitions, so that each is stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::{error, warn};

use super::assignments::reached;
use super::{ConsumerEvent, Shared, topic_ids};
use crate::log_state::{self, LogPosition};

const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether `error` says that a position is outside of the log. librdkafka does not say which, nor whether it is out of
/// range or its leader epoch was refused.
pub(super) fn is_truncation(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::LogTruncation))
}

/// Finds the partitions among those that `client` reads, and reports to the owner that they stopped. One whose leader
/// does not answer now is found by the watch: it stalls, and the next claim checks it.
pub(super) fn report<C: ConsumerContext>(client: &BaseConsumer<C>, shared: &Shared) {
    let mut topics: BTreeMap<Arc<str>, Vec<LogPosition>> = BTreeMap::new();
    for ((topic, partition), next_offset) in reached(client) {
        let identity = shared.held.get(&topic, partition).map(|hold| hold.identity).unwrap_or_default();
        topics.entry(topic).or_default().push(LogPosition { partition, next_offset, identity });
    }
    let ids = topic_ids::known(client, &topics.keys().map(AsRef::as_ref).collect::<Vec<_>>());
    for (topic, places) in topics {
        let id = ids.get(&*topic).copied();
        for (partition, state) in log_state::ask(client, &shared.kafka, &topic, id, &places, KAFKA_TIMEOUT) {
            match state.map(|state| state.mismatch) {
                Ok(None) => {}
                Ok(Some(mismatch)) => {
                    let reason = mismatch.to_string();
                    error!(%topic, partition, reason, "Log lost records before they were read; stopping the partition.");
                    shared.held.stopped(&topic, partition);
                    let _reported =
                        shared.outlet.send(ConsumerEvent::Stopped { topic: topic.clone(), partition, reason });
                }
                Err(error) => warn!(%topic, partition, %error, "The state of a log is not known."),
            }
        }
    }
}
