//! What the pass shows of itself while it works.

use std::time::{Duration, Instant};

use platform::kafka::consumer::FencedConsumer;
use time::OffsetDateTime;

use super::Pass;
use crate::metrics::METRICS;

const GAUGES_EVERY: Duration = Duration::from_secs(1);

impl Pass {
    /// Sets the gauges and copies positions to Kafka for lag tools, once a second.
    pub(super) fn show(&mut self, consumer: &FencedConsumer) {
        if self.last_gauges.elapsed() < GAUGES_EVERY {
            return;
        }
        self.last_gauges = Instant::now();
        METRICS.queue_depth.set(self.intake.queue_depth() as f64);
        METRICS.uncommitted.set(self.intake.uncommitted() as f64);
        let now_ms = OffsetDateTime::now_utc().unix_timestamp() * 1000;
        for (partition, next, time_ms) in self.intake.positions() {
            let lag = consumer.log_ends().of(&self.parts.topic, partition).map_or(0, |end| (end - next).max(0));
            let age_ms = time_ms.filter(|_| lag > 0).map_or(0, |time_ms| (now_ms - time_ms).max(0));
            let label = partition.to_string();
            METRICS.lag_records.with_label_values(&[&label]).set(lag as f64);
            METRICS.lag_seconds.with_label_values(&[&label]).set(age_ms as f64 / 1000.0);
        }
        let mut positions: Vec<(i32, i64)> = self.intake.positions().map(|(partition, next, _)| (partition, next)).collect();
        positions.sort_unstable();
        if positions != self.hinted {
            consumer.commit_hint(positions.iter().copied());
            self.hinted = positions;
        }
    }
}
