//! A log that lost records before they were read (retention, truncation, a topic made anew): which partitions, so that each is stopped.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::error;

use super::{Inflow, Outlet};

const WATERMARK_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether `error` says that a position is outside of the log. librdkafka does not say which.
pub(super) fn is_truncation(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset)
}

/// Finds the partitions among those that `client` reads, and tells the owner that they stopped.
pub(super) fn report<C: ConsumerContext>(client: &BaseConsumer<C>, outlet: &Outlet) {
    let (Ok(positions), Ok(assigned)) = (client.position(), client.assignment()) else { return };
    for element in assigned.elements() {
        let (topic, partition) = (element.topic(), element.partition());
        let reached = positions.find_partition(topic, partition).map(|position| position.offset());
        // Before its first record a partition has no position but the one that it was assigned with.
        let ((Some(Offset::Offset(next)), _) | (_, Offset::Offset(next))) = (reached, element.offset()) else { continue };
        let Ok((low, high)) = client.fetch_watermarks(topic, partition, WATERMARK_TIMEOUT) else { continue };
        if let Some(reason) = outside(next, low, high) {
            error!(topic, partition, reason, "The log was truncated before it was read.");
            let _told = outlet.send(Inflow::Stopped { topic: Arc::from(topic), partition, reason });
        }
    }
}

/// Why `next` cannot be read in a log from `low` to `high`, if so.
pub(super) fn outside(next: i64, low: i64, high: i64) -> Option<String> {
    (next < low || next > high).then(|| format!("the position is {next}, the log reaches from {low} to {high}"))
}
