//! Each record of an owned partition is taken once, in order, within bounds.

use proptest::prelude::*;

use super::*;

fn claim(topic: &str, partition: i32, epoch: i64, next_offset: i64) -> Claim {
    Claim { topic: Arc::from(topic), partition, epoch, log_epoch: 1, next_offset }
}

fn record(topic: &str, partition: i32, offset: i64) -> Record {
    Record {
        topic: Arc::from(topic),
        partition,
        offset,
        timestamp_ms: 0,
        key: None,
        value: Some(vec![0; 10]),
        headers: Vec::new(),
        is_marker: false,
        has_producers_time: false,
    }
}

fn offsets(batch: &Batch) -> Vec<i64> {
    batch.records.iter().map(|record| record.offset).collect()
}

fn is_delivery(topic: &str) -> bool {
    topic == "deliveries"
}

#[test]
fn records_of_owned_partitions_are_taken_once() {
    let mut collector = Collector::default();
    collector.assign(vec![claim("events", 0, 1, 5)]);
    let read = vec![
        record("events", 0, 4),
        record("events", 0, 5),
        record("events", 0, 5),
        record("events", 1, 9),
        record("events", 0, 7),
    ];
    collector.collect(read, is_delivery);
    assert_eq!(offsets(&collector.take_batch(100, 1000).unwrap()), vec![5, 7]);
    assert!(collector.take_batch(100, 1000).is_none());
}

#[test]
fn revoking_a_partition_discards_its_collected_records() {
    let mut collector = Collector::default();
    collector.assign(vec![claim("events", 0, 1, 0), claim("acks", 0, 1, 0), claim("events", 1, 1, 0)]);
    collector.collect(vec![record("events", 0, 0), record("acks", 0, 0), record("events", 1, 0)], is_delivery);
    collector.revoke(&[0]);
    assert_eq!(offsets(&collector.take_batch(100, 1000).unwrap()), vec![0], "only partition 1 is left");
    collector.assign(vec![claim("events", 0, 3, 0)]);
    collector.collect(vec![record("events", 0, 0)], is_delivery);
    let batch = collector.take_batch(100, 1000).unwrap();
    assert_eq!(batch.owned.values().next().unwrap().epoch, 3);
}

#[test]
fn events_and_acks_are_taken_before_deliveries() {
    let mut collector = Collector::default();
    collector.assign(vec![claim("events", 0, 1, 0), claim("deliveries", 0, 1, 0)]);
    collector.collect(vec![record("deliveries", 0, 0), record("events", 0, 0)], is_delivery);
    assert_eq!(&*collector.take_batch(100, 1000).unwrap().records[0].topic, "events");
    assert_eq!(&*collector.take_batch(100, 1000).unwrap().records[0].topic, "deliveries");
}

#[test]
fn a_position_of_an_older_claim_is_ignored() {
    let mut collector = Collector::default();
    collector.assign(vec![claim("events", 0, 1, 0)]);
    collector.collect(vec![record("events", 0, 0)], is_delivery);
    let batch = collector.take_batch(100, 1000).unwrap();
    let (key, mut written) = batch.owned.into_iter().next().unwrap();
    written.committed = 1;
    collector.assign(vec![claim("events", 0, 2, 0)]);
    collector.mark_committed(&key, &written);
    assert!(!collector.release_fenced(&key, 1));
    assert_eq!(collector.owned().next().unwrap().1.committed, 0);
}

#[test]
fn a_batch_is_bounded_by_records_and_by_bytes_but_never_empty() {
    let mut collector = Collector::default();
    collector.assign(vec![claim("events", 0, 1, 0)]);
    collector.collect((0..6).map(|offset| record("events", 0, offset)).collect(), is_delivery);
    assert_eq!(offsets(&collector.take_batch(2, 1000).unwrap()), vec![0, 1]);
    assert_eq!(offsets(&collector.take_batch(100, 25).unwrap()), vec![2, 3]);
    assert_eq!(offsets(&collector.take_batch(100, 1).unwrap()), vec![4]);
    assert_eq!(offsets(&collector.take_batch(100, 1000).unwrap()), vec![5]);
}

#[test]
fn both_queues_are_bounded() {
    let mut collector = Collector::default();
    collector.assign(vec![claim("deliveries", 0, 1, 0)]);
    collector.collect(vec![record("deliveries", 0, 0), record("deliveries", 0, 1)], is_delivery);
    assert!(collector.has_room(3, 100));
    assert!(!collector.has_room(2, 100));
    assert!(!collector.has_room(3, 20));
}

const TOPICS: [&str; 3] = ["events", "acks", "deliveries"];

/// What the group, the consumer and the flush do to the collector.
#[derive(Debug, Clone)]
enum Step {
    /// A partition is claimed: events at a position, acks and deliveries with it.
    Assign(i32),
    Revoke(i32),
    /// Another instance claimed one topic partition.
    Fence(usize, i32),
    /// Records of a topic partition are read, from `back` before the last one read: a consumer may seek back.
    Read {
        topic: usize,
        partition: i32,
        back: i64,
        count: i64,
    },
    /// A transaction; it may find that another instance claimed the partition of its first record.
    Flush {
        max_records: usize,
        max_bytes: usize,
        is_fenced: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..3_i32).prop_map(Step::Assign),
        1 => (0..3_i32).prop_map(Step::Revoke),
        1 => (0..3_usize, 0..3_i32).prop_map(|(topic, partition)| Step::Fence(topic, partition)),
        8 => (0..3_usize, 0..3_i32, 0..3_i64, 1..6_i64)
            .prop_map(|(topic, partition, back, count)| Step::Read { topic, partition, back, count }),
        5 => (1..8_usize, 1..80_usize, prop::bool::weighted(0.1))
            .prop_map(|(max_records, max_bytes, is_fenced)| Step::Flush { max_records, max_bytes, is_fenced }),
    ];
    prop::collection::vec(step, 1..150)
}

/// What the database has, and how far each topic partition was read.
#[derive(Default)]
struct World {
    collector: Collector,
    /// The epoch, the position, and the next offset to read. Removed with the claim.
    claims: BTreeMap<TopicPartition, (i64, i64, i64)>,
    /// Positions outlive their claims.
    positions: BTreeMap<TopicPartition, i64>,
    last_epoch: i64,
}

fn topic_partition(topic: usize, partition: i32) -> TopicPartition {
    (Arc::from(TOPICS[topic]), partition)
}

/// Offsets have gaps: every third is another producer's marker.
fn is_there(offset: &i64) -> bool {
    offset % 3 != 1
}

impl World {
    fn assign(&mut self, partition: i32) {
        self.last_epoch += 1;
        let claims = (0..TOPICS.len()).map(|topic| {
            let next = self.positions.get(&topic_partition(topic, partition)).copied().unwrap_or(0);
            self.claims.insert(topic_partition(topic, partition), (self.last_epoch, next, next));
            claim(TOPICS[topic], partition, self.last_epoch, next)
        });
        let claims = claims.collect();
        self.collector.assign(claims);
    }

    /// Offsets that were read and are neither written nor fenced.
    fn open(&self) -> Vec<(TopicPartition, i64)> {
        let open = |(key, (_, written, read)): (&TopicPartition, &(i64, i64, i64))| {
            let key = key.clone();
            (*written..*read).filter(is_there).map(move |offset| (key.clone(), offset)).collect::<Vec<_>>()
        };
        self.claims.iter().flat_map(open).collect()
    }

    /// One transaction: its records are exactly the next ones of each of its partitions.
    fn flush(&mut self, max_records: usize, max_bytes: usize, is_fenced: bool) -> Result<bool, TestCaseError> {
        let open = self.open();
        let Some(batch) = self.collector.take_batch(max_records, max_bytes) else {
            prop_assert!(open.is_empty(), "{:?} were never taken", open);
            return Ok(false);
        };
        let bytes: usize = batch.records.iter().map(Record::size).sum();
        prop_assert!(batch.records.len() <= max_records && (bytes <= max_bytes || batch.records.len() == 1));
        let of_deliveries = batch.records.iter().filter(|record| is_delivery(&record.topic)).count();
        prop_assert!(
            of_deliveries == 0
                || of_deliveries == batch.records.len() && open.iter().all(|((topic, _), _)| is_delivery(topic))
        );
        let fenced = is_fenced.then(|| (batch.records[0].topic.clone(), batch.records[0].partition));
        for (key, owned) in &batch.owned {
            let (epoch, written, _) = self.claims[key];
            prop_assert_eq!(
                (owned.epoch, owned.committed),
                (epoch, written),
                "the claim and the position that the database has"
            );
            let of_partition =
                batch.records.iter().filter(|record| (&record.topic, record.partition) == (&key.0, key.1));
            let offsets: Vec<i64> = of_partition.map(|record| record.offset).collect();
            let expected: Vec<i64> =
                open.iter().filter(|(of, _)| of == key).map(|(_, offset)| *offset).take(offsets.len()).collect();
            prop_assert_eq!(&offsets, &expected, "each record once, in order, none skipped");
            if fenced.as_ref() == Some(key) {
                prop_assert!(self.collector.release_fenced(key, epoch));
                self.claims.remove(key);
                continue;
            }
            let committed = offsets.last().map_or(written, |last| last + 1);
            self.collector.mark_committed(key, &OwnedPartition { committed, ..*owned });
            self.claims.entry(key.clone()).and_modify(|claim| claim.1 = committed);
            self.positions.insert(key.clone(), committed);
        }
        prop_assert!(
            batch.records.iter().all(|record| batch.owned.contains_key(&(record.topic.clone(), record.partition)))
        );
        Ok(true)
    }
}

proptest! {
    #[test]
    fn records_of_owned_partitions_are_in_one_batch_in_order(steps in steps()) {
        let mut world = World::default();
        for step in steps {
            match step {
                Step::Assign(partition) => world.assign(partition),
                Step::Revoke(partition) => {
                    world.collector.revoke(&[partition]);
                    world.claims.retain(|(_, of), _| *of != partition);
                }
                Step::Fence(topic, partition) => {
                    let key = topic_partition(topic, partition);
                    let claim = world.claims.remove(&key);
                    let epoch = claim.map_or(0, |claim| claim.0);
                    prop_assert_eq!(world.collector.release_fenced(&key, epoch), claim.is_some());
                }
                Step::Read { topic, partition, back, count } => {
                    let key = topic_partition(topic, partition);
                    // Without a claim records still arrive for a moment; from anywhere.
                    let next = world.claims.get(&key).map_or(7, |claim| claim.2);
                    let read = (next - back).max(0)..next + count;
                    let offsets = read.clone().filter(is_there);
                    let records = offsets.map(|offset| record(TOPICS[topic], partition, offset)).collect();
                    world.collector.collect(records, is_delivery);
                    world.claims.entry(key).and_modify(|claim| claim.2 = read.end);
                }
                Step::Flush { max_records, max_bytes, is_fenced } => {
                    world.flush(max_records, max_bytes, is_fenced)?;
                }
            }
        }
        while world.flush(5, 50, false)? {}
        prop_assert!(world.collector.has_room(1, 1), "and nothing is left");
    }
}
