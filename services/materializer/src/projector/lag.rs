//! How far the view is behind the log, in records and in seconds, as gauges per topic.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use kafka::consumer::{CommitProgress, Lag, Session};
use kafka::partition::TopicPartition;
use schemas::topics::TopicNames;

use super::batch::{Collector, OwnedPartition};
use crate::metrics::METRICS;

/// Sets the gauges from the owned partitions. A topic without an owned partition has no lag here: other instances
/// report it.
pub(crate) fn report(collector: &Collector, session: &Session, names: &TopicNames) {
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_millis()).ok())
        .unwrap_or(0);
    let lags =
        by_topic(collector.owned(), |(topic, partition), owned| session.lag(topic, *partition, reached(owned), now_ms));
    for topic in [&names.events, &names.acks, &names.deliveries] {
        let lag = lags.get(topic.as_str()).copied().unwrap_or_default();
        METRICS.lag_records.with_label_values(&[topic]).set(lag.records as f64);
        METRICS.lag_seconds.with_label_values(&[topic]).set(lag.seconds);
    }
}

fn reached(owned: &OwnedPartition) -> CommitProgress {
    CommitProgress {
        next_offset: owned.committed,
        open_since_ms: owned.waiting_since_ms,
        last_done_ms: owned.record_time_ms,
    }
}

/// Over all partitions of a topic: the sum of records, the maximum of seconds.
fn by_topic<'a>(
    owned: impl Iterator<Item = (&'a TopicPartition, &'a OwnedPartition)>,
    lag_of: impl Fn(&TopicPartition, &OwnedPartition) -> Lag,
) -> BTreeMap<&'a str, Lag> {
    let mut topics: BTreeMap<&str, Lag> = BTreeMap::new();
    for (key, partition) in owned {
        let (lag, all) = (lag_of(key, partition), topics.entry(&key.0).or_default());
        all.records += lag.records;
        all.seconds = all.seconds.max(lag.seconds);
    }
    topics
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kafka::Record;
    use kafka::fence::Claim;

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
            has_producers_time: false,
        }
    }

    /// Writes everything that is collected.
    fn write(collector: &mut Collector) {
        let batch = collector.take_batch(100, 1000).unwrap();
        for (key, mut owned) in batch.owned {
            let last = batch.records.iter().rfind(|record| record.partition == key.1).unwrap();
            owned.committed = last.offset + 1;
            owned.record_time_ms = Some(last.timestamp_ms);
            collector.mark_committed(&key, &owned);
        }
    }

    fn lag(collector: &Collector, ends: [i64; 2], now_ms: i64) -> Lag {
        let lag_of = |(_, partition): &TopicPartition, owned: &OwnedPartition| {
            let end = usize::try_from(*partition).ok().and_then(|partition| ends.get(partition)).copied();
            Lag::of(end, reached(owned), now_ms)
        };
        by_topic(collector.owned(), lag_of).get("events").copied().unwrap_or_default()
    }

    #[test]
    fn lag_is_the_sum_of_records_and_the_age_of_the_oldest() {
        let mut collector = Collector::default();
        assert_eq!(lag(&collector, [9, 9], 0), Lag::default(), "no partition is owned");
        collector.assign(vec![claim(0, 5), claim(1, 0)]);
        collector.collect(vec![record(0, 5, 1_000), record(0, 6, 2_000), record(1, 0, 4_000)], |_| false);
        assert_eq!(lag(&collector, [8, 1], 11_000), Lag { records: 4, seconds: 10.0 });
        write(&mut collector);
        assert_eq!(lag(&collector, [7, 1], 11_000), Lag::default());
    }

    #[test]
    fn a_record_after_a_quiet_hour_is_not_an_hour_of_lag() {
        let mut collector = Collector::default();
        collector.assign(vec![claim(0, 0)]);
        collector.collect(vec![record(0, 0, 0)], |_| false);
        write(&mut collector);
        collector.collect(vec![record(0, 1, HOUR_MS)], |_| false);
        assert_eq!(lag(&collector, [2, 0], HOUR_MS + 5), Lag { records: 1, seconds: 0.005 });
    }

    #[test]
    fn records_collected_during_a_flush_count_from_its_last_one() {
        let mut collector = Collector::default();
        collector.assign(vec![claim(0, 0)]);
        collector.collect(vec![record(0, 0, 1_000)], |_| false);
        let batch = collector.take_batch(100, 1000).unwrap();
        collector.collect(vec![record(0, 1, 1_500)], |_| false);
        let (key, mut owned) = batch.owned.into_iter().next().unwrap();
        owned.committed = 1;
        owned.record_time_ms = Some(1_000);
        collector.mark_committed(&key, &owned);
        assert_eq!(lag(&collector, [2, 0], 3_000), Lag { records: 1, seconds: 2.0 });
    }
}
