//! Counts the records on the events topic, to compare them with the accepted events of a run whose inbox nobody writes.

use std::time::Duration;

use anyhow::{Context, Result};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use schemas::topics::EVENTS;
use serde::Serialize;

use crate::recorder::{Recorder, RequestOutcome};
use crate::scenario::Load;

const BUDGET: Duration = Duration::from_secs(10);

/// Accepted events, and records that were appended during the run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LogCount {
    pub accepted: u64,
    /// Events of requests that were not accepted as a whole.
    pub maybe_stored: u64,
    pub appended: u64,
}

impl LogCount {
    /// Compares the outcomes with the ends of the log before and after the run.
    pub(crate) fn new(load: &Load, recorder: &Recorder, before: u64, after: u64) -> Self {
        let events = load.batch_events as u64;
        let accepted = recorder.all.get(&RequestOutcome::Accepted).copied().unwrap_or(0);
        Self {
            accepted: accepted * events,
            maybe_stored: recorder.maybe_stored() * events,
            appended: after.saturating_sub(before),
        }
    }

    /// Whether nothing is missing and nothing was stored twice.
    pub(crate) fn passed(&self) -> bool {
        (self.accepted..=self.accepted + self.maybe_stored).contains(&self.appended)
    }
}

/// The sum of the end offsets of all partitions of the events topic.
pub(crate) async fn end_of_log(brokers: &str) -> Result<u64> {
    let brokers = brokers.to_owned();
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &brokers).create().context("creating a Kafka client")?;
        let metadata = consumer.fetch_metadata(Some(EVENTS), BUDGET).context("reading the topic's metadata")?;
        let mut end = 0;
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            let (_, high) = consumer.fetch_watermarks(EVENTS, partition.id(), BUDGET).context("reading an offset")?;
            end += u64::try_from(high).unwrap_or(0);
        }
        Ok(end)
    })
    .await
    .context("reading the ends of the log")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_each_accepted_event_once() {
        let count = |appended| LogCount { accepted: 200, maybe_stored: 100, appended };
        assert_eq!(
            [199, 200, 250, 300, 301].map(|appended| count(appended).passed()),
            [false, true, true, true, false]
        );
    }
}
