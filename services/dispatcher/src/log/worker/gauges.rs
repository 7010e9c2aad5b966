//! Gauges of the log worker, and the positions in Kafka that lag tools read.

use std::time::{Duration, Instant};

use kafka::consumer::Session;
use time::OffsetDateTime;

use crate::log::tracker::DeliveryTracker;
use crate::metrics::METRICS;

const INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Gauges {
    last_update: Instant,
    /// Positions that were copied to Kafka last.
    copied: Vec<(i32, i64)>,
}

impl Gauges {
    pub(super) fn new() -> Self {
        Self { last_update: Instant::now(), copied: Vec::new() }
    }

    /// Sets the gauges and copies positions to Kafka, once a second.
    pub(super) fn update(&mut self, tracker: &DeliveryTracker, topic: &str, session: &Session) {
        if self.last_update.elapsed() < INTERVAL {
            return;
        }
        self.last_update = Instant::now();
        METRICS.queue_depth.set(tracker.queue_depth() as f64);
        METRICS.uncommitted.set(tracker.uncommitted() as f64);
        let now_ms = i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        let mut positions = Vec::new();
        for (partition, reached) in tracker.reached() {
            positions.push((partition, reached.next_offset));
            let lag = session.lag(topic, partition, reached, now_ms);
            let label = partition.to_string();
            METRICS.lag_records.with_label_values(&[&label]).set(lag.records as f64);
            METRICS.lag_seconds.with_label_values(&[&label]).set(lag.seconds);
        }
        positions.sort_unstable();
        if positions != self.copied {
            session.commit_hint(positions.iter().copied());
            self.copied = positions;
        }
    }
}

/// Removes the lag of a partition that was revoked.
pub(super) fn remove_lag(partition: i32) {
    let label = partition.to_string();
    // An error means that there is no gauge of this partition.
    let _removed =
        (METRICS.lag_records.remove_label_values(&[&label]), METRICS.lag_seconds.remove_label_values(&[&label]));
}
