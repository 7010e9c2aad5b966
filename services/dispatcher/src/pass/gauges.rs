//! What the pass shows of itself while it works.

use std::time::{Duration, Instant};

use platform::kafka::consumer::Session;
use time::OffsetDateTime;

use super::Pass;
use crate::metrics::METRICS;

const GAUGES_EVERY: Duration = Duration::from_secs(1);

impl Pass {
    /// Sets the gauges and copies positions to Kafka for lag tools, once a second.
    pub(super) fn show(&mut self, session: &Session) {
        if self.last_gauges.elapsed() < GAUGES_EVERY {
            return;
        }
        self.last_gauges = Instant::now();
        METRICS.queue_depth.set(self.intake.queue_depth() as f64);
        METRICS.uncommitted.set(self.intake.uncommitted() as f64);
        let now_ms = i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        for (partition, reached) in self.intake.reached() {
            let lag = session.lag(&self.parts.topic, partition, reached, now_ms);
            let label = partition.to_string();
            METRICS.lag_records.with_label_values(&[&label]).set(lag.records as f64);
            METRICS.lag_seconds.with_label_values(&[&label]).set(lag.seconds);
        }
        let mut positions: Vec<(i32, i64)> =
            self.intake.reached().map(|(partition, reached)| (partition, reached.next_offset)).collect();
        positions.sort_unstable();
        if positions != self.hinted {
            session.commit_hint(positions.iter().copied());
            self.hinted = positions;
        }
    }
}
