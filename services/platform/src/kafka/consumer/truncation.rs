//! A log that lost records before they were read (retention, truncation, a topic made anew): which partitions, so that
//! each is stopped.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::{error, warn};

use super::held::{Held, reached};
use super::{Inflow, Outlet};
use crate::kafka::bounds;

const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether `error` says that a position is outside of the log. librdkafka does not say which.
pub(super) fn is_truncation(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset)
}

/// Finds the partitions among those that `client` reads, and tells the owner that they stopped. One that lost its end
/// and grew beyond the place again looks well here; librdkafka does not fetch it any more, so the watch finds it, and
/// the next claim, which knows the times, tells.
pub(super) fn report<C: ConsumerContext>(client: &BaseConsumer<C>, outlet: &Outlet, held: &Held) {
    for ((topic, partition), next) in reached(client) {
        let bounds = match bounds::ask(client, &topic, &[(partition, None)], KAFKA_TIMEOUT).remove(&partition) {
            Some(Ok(bounds)) => Some(bounds),
            None => None,
            Some(Err(error)) => {
                // If it is this one, the watch finds it standing still, or behind the log's end, and the next claim
                // tells.
                warn!(%topic, partition, %error, "A log's bounds are not known.");
                None
            }
        };
        if let Some(reason) =
            bounds.and_then(|bounds| bounds::outside(next, &bounds)).map(|outside| outside.to_string())
        {
            error!(%topic, partition, reason, "The log was truncated before it was read.");
            held.stopped(&topic, partition);
            let _told = outlet.send(Inflow::Stopped { topic, partition, reason });
        }
    }
}
