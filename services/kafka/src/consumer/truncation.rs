//! Finds the partitions whose logs lost records while they were read (retention, truncation, an unclean election, a
//! topic that was created again), and stops them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::{error, warn};

use super::assignments::next_offsets;
use super::{ConsumerEvent, Shared, topic_ids};
use crate::log_identity::PartitionPosition;
use crate::log_state;

const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether `error` means that a position is outside of its log. librdkafka does not report which position, nor whether
/// it is out of range or its leader epoch was refused.
pub(super) fn is_truncation(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::LogTruncation))
}

/// Checks all partitions that `client` reads, and reports the stopped ones to the owner. If a leader does not answer
/// now, its partition stalls; the watch finds that, and the next claim checks the position.
pub(super) fn report<C: ConsumerContext>(client: &BaseConsumer<C>, shared: &Shared) {
    let mut topics: BTreeMap<Arc<str>, Vec<PartitionPosition>> = BTreeMap::new();
    for ((topic, partition), next_offset) in next_offsets(client) {
        let identity =
            shared.assignments.get(&topic, partition).map(|assignment| assignment.identity).unwrap_or_default();
        topics.entry(topic).or_default().push(PartitionPosition { partition, next_offset, identity });
    }
    let ids = topic_ids::query(client, &topics.keys().map(AsRef::as_ref).collect::<Vec<_>>());
    for (topic, positions) in topics {
        let id = ids.get(&*topic).copied();
        for (partition, state) in log_state::query(client, &shared.kafka, &topic, id, &positions, KAFKA_TIMEOUT) {
            match state.map(|state| state.mismatch) {
                Ok(None) => {}
                Ok(Some(mismatch)) => {
                    let reason = mismatch.to_string();
                    error!(
                        %topic, partition, reason,
                        "Log lost records before they were read; stopping the partition."
                    );
                    shared.assignments.mark_stopped(&topic, partition);
                    let _reported =
                        shared.sender.send(ConsumerEvent::Stopped { topic: topic.clone(), partition, reason });
                }
                Err(error) => {
                    warn!(%topic, partition, %error, "State of the log is unknown; the next claim checks it.");
                }
            }
        }
    }
}
