//! What the pass shows of itself while it works.

use std::time::{Duration, Instant};

use platform::kafka::consumer::FencedConsumer;
use time::OffsetDateTime;

use super::Pass;
use crate::intake::Position;
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
        let now_ms = i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        for position in self.intake.positions() {
            let end = consumer.log_ends().of(&self.parts.topic, position.partition);
            let records = end.map_or(0, |end| (end - position.next).max(0));
            let label = position.partition.to_string();
            METRICS.lag_records.with_label_values(&[&label]).set(records as f64);
            METRICS.lag_seconds.with_label_values(&[&label]).set(lag_seconds(&position, records, now_ms));
        }
        let mut positions: Vec<(i32, i64)> =
            self.intake.positions().map(|position| (position.partition, position.next)).collect();
        positions.sort_unstable();
        if positions != self.hinted {
            consumer.commit_hint(positions.iter().copied());
            self.hinted = positions;
        }
    }
}

/// Age of the first record that is not done. What is behind and not read yet has no known age: that of the last record
/// done is only the second best measure, since after a quiet hour it would tell of an hour's lag.
fn lag_seconds(position: &Position, records_behind: i64, now_ms: i64) -> f64 {
    let since_ms = position.open_since_ms.or(position.last_done_ms.filter(|_| records_behind > 0));
    since_ms.map_or(0.0, |since_ms| (now_ms - since_ms).max(0) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn position(open_since_ms: Option<i64>, last_done_ms: Option<i64>) -> Position {
        Position { partition: 0, next: 1, open_since_ms, last_done_ms }
    }

    #[test]
    fn a_record_after_a_quiet_hour_is_no_hour_of_lag() {
        assert_eq!(lag_seconds(&position(Some(HOUR_MS), Some(0)), 1, HOUR_MS + 5), 0.005);
        assert_eq!(lag_seconds(&position(None, Some(0)), 0, HOUR_MS), 0.0);
    }

    #[test]
    fn a_backlog_that_is_not_read_yet_is_as_old_as_what_was_done_before() {
        assert_eq!(lag_seconds(&position(None, Some(0)), 10, HOUR_MS), 3600.0);
        assert_eq!(lag_seconds(&position(None, None), 10, HOUR_MS), 0.0);
    }
}
