//! How far the view is behind the log, in records and in seconds, as gauges per topic.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use platform::kafka::consumer::{Lag, Reached, Session};
use schemas::topics::TopicNames;

use super::batch::{Collector, Hold, Place};
use crate::metrics::METRICS;

/// Sets the gauges from the partitions that are held. A topic of which nothing is held has no lag here: others report
/// it.
pub(crate) fn report(collector: &Collector, session: &Session, names: &TopicNames) {
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_millis()).ok())
        .unwrap_or(0);
    let lags =
        by_topic(collector.holds(), |(topic, partition), hold| session.lag(topic, *partition, reached(hold), now_ms));
    for topic in [&names.events, &names.acks, &names.deliveries] {
        let lag = lags.get(topic.as_str()).copied().unwrap_or_default();
        METRICS.lag_records.with_label_values(&[topic]).set(lag.records as f64);
        METRICS.lag_seconds.with_label_values(&[topic]).set(lag.seconds);
    }
}

fn reached(hold: &Hold) -> Reached {
    Reached { next_offset: hold.committed, open_since_ms: hold.waiting_since_ms, last_done_ms: hold.record_time_ms }
}

/// Over all partitions of a topic: the sum of records, the oldest of seconds.
fn by_topic<'a>(
    holds: impl Iterator<Item = (&'a Place, &'a Hold)>,
    lag_of: impl Fn(&Place, &Hold) -> Lag,
) -> BTreeMap<&'a str, Lag> {
    let mut topics: BTreeMap<&str, Lag> = BTreeMap::new();
    for (place, hold) in holds {
        let (lag, all) = (lag_of(place, hold), topics.entry(&place.0).or_default());
        all.records += lag.records;
        all.seconds = all.seconds.max(lag.seconds);
    }
    topics
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use platform::fence::Claim;
    use platform::kafka::Record;

    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn claim(partition: i32, next_offset: i64) -> Claim {
        Claim { topic: Arc::from("events"), partition, epoch: 1, log_epoch: 1, next_offset }
    }

    fn record(partition: i32, offset: i64, timestamp_ms: i64) -> Record {
        Record {
            topic: Arc::from("events"),
            partition,
            offset,
            timestamp_ms,
            key: None,
            value: None,
            headers: Vec::new(),
            is_marker: false,
        }
    }

    /// Writes all that is collected.
    fn write(collector: &mut Collector) {
        let batch = collector.take_batch(100, 1000).unwrap();
        for (place, mut hold) in batch.holds {
            let last = batch.records.iter().rfind(|record| record.partition == place.1).unwrap();
            hold.committed = last.offset + 1;
            hold.record_time_ms = Some(last.timestamp_ms);
            collector.committed(&place, &hold);
        }
    }

    fn lag(collector: &Collector, ends: [i64; 2], now_ms: i64) -> Lag {
        let lag_of = |(_, partition): &Place, hold: &Hold| {
            let end = usize::try_from(*partition).ok().and_then(|partition| ends.get(partition)).copied();
            Lag::of(end, reached(hold), now_ms)
        };
        by_topic(collector.holds(), lag_of).get("events").copied().unwrap_or_default()
    }

    #[test]
    fn lag_is_the_sum_of_records_and_the_age_of_the_oldest_that_waits() {
        let mut collector = Collector::default();
        assert_eq!(lag(&collector, [9, 9], 0), Lag::default(), "nothing held");
        collector.assign(vec![claim(0, 5), claim(1, 0)]);
        collector.collect(vec![record(0, 5, 1_000), record(0, 6, 2_000), record(1, 0, 4_000)], |_| false);
        assert_eq!(lag(&collector, [8, 1], 11_000), Lag { records: 4, seconds: 10.0 });
        write(&mut collector);
        assert_eq!(lag(&collector, [7, 1], 11_000), Lag::default());
    }

    #[test]
    fn a_record_after_a_quiet_hour_is_no_hour_of_lag() {
        let mut collector = Collector::default();
        collector.assign(vec![claim(0, 0)]);
        collector.collect(vec![record(0, 0, 0)], |_| false);
        write(&mut collector);
        collector.collect(vec![record(0, 1, HOUR_MS)], |_| false);
        assert_eq!(lag(&collector, [2, 0], HOUR_MS + 5), Lag { records: 1, seconds: 0.005 });
    }

    #[test]
    fn what_is_collected_while_a_batch_is_written_waits_since_then() {
        let mut collector = Collector::default();
        collector.assign(vec![claim(0, 0)]);
        collector.collect(vec![record(0, 0, 1_000)], |_| false);
        let batch = collector.take_batch(100, 1000).unwrap();
        collector.collect(vec![record(0, 1, 1_500)], |_| false);
        let (place, mut hold) = batch.holds.into_iter().next().unwrap();
        hold.committed = 1;
        hold.record_time_ms = Some(1_000);
        collector.committed(&place, &hold);
        assert_eq!(lag(&collector, [2, 0], 3_000), Lag { records: 1, seconds: 2.0 });
    }
}
