//! How far the view is behind the log, in records and in seconds, as gauges per topic.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use platform::kafka::consumer::LogEnds;

use super::batch::Collector;
use crate::metrics::METRICS;

/// Sets the gauges from the partitions that are held.
pub(crate) fn report(collector: &Collector, ends: &LogEnds) {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|elapsed| i64::try_from(elapsed.as_millis()).ok()).unwrap_or(0);
    let mut topics: BTreeMap<&str, (i64, f64)> = BTreeMap::new();
    for ((topic, partition), hold) in collector.holds() {
        let records = ends.of(topic, *partition).map_or(0, |end| (end - hold.committed).max(0));
        // The oldest record that is not applied is younger than the last one that is.
        let seconds = match hold.record_time_ms {
            Some(time) if records > 0 => (now_ms - time).max(0) as f64 / 1000.0,
            _ => 0.0,
        };
        let sum = topics.entry(topic).or_default();
        sum.0 += records;
        sum.1 = sum.1.max(seconds);
    }
    for (topic, (records, seconds)) in topics {
        METRICS.lag_records.with_label_values(&[topic]).set(records as f64);
        METRICS.lag_seconds.with_label_values(&[topic]).set(seconds);
    }
}
