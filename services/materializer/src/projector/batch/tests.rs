//! Each record once, under a claim, in order, within bounds.

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
    }
}

fn offsets(batch: &Batch) -> Vec<i64> {
    batch.records.iter().map(|record| record.offset).collect()
}

fn is_delivery(topic: &str) -> bool {
    topic == "deliveries"
}

#[test]
fn only_records_under_a_claim_are_taken_and_each_once() {
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
fn what_was_collected_goes_with_the_partition_and_a_new_claim_begins_anew() {
    let mut collector = Collector::default();
    collector.assign(vec![claim("events", 0, 1, 0), claim("acks", 0, 1, 0), claim("events", 1, 1, 0)]);
    collector.collect(vec![record("events", 0, 0), record("acks", 0, 0), record("events", 1, 0)], is_delivery);
    collector.revoke(&[0]);
    assert_eq!(offsets(&collector.take_batch(100, 1000).unwrap()), vec![0], "only partition 1 is left");
    collector.assign(vec![claim("events", 0, 3, 0)]);
    collector.collect(vec![record("events", 0, 0)], is_delivery);
    let batch = collector.take_batch(100, 1000).unwrap();
    assert_eq!(batch.holds.values().next().unwrap().epoch, 3);
}

#[test]
fn deliveries_yield_to_events_and_acks() {
    let mut collector = Collector::default();
    collector.assign(vec![claim("events", 0, 1, 0), claim("deliveries", 0, 1, 0)]);
    collector.collect(vec![record("deliveries", 0, 0), record("events", 0, 0)], is_delivery);
    assert_eq!(&*collector.take_batch(100, 1000).unwrap().records[0].topic, "events");
    assert_eq!(&*collector.take_batch(100, 1000).unwrap().records[0].topic, "deliveries");
}

#[test]
fn a_position_written_under_an_older_claim_is_not_noted() {
    let mut collector = Collector::default();
    collector.assign(vec![claim("events", 0, 1, 0)]);
    collector.collect(vec![record("events", 0, 0)], is_delivery);
    let batch = collector.take_batch(100, 1000).unwrap();
    let (place, mut written) = batch.holds.into_iter().next().unwrap();
    written.committed = 1;
    collector.assign(vec![claim("events", 0, 2, 0)]);
    collector.committed(&place, &written);
    assert!(!collector.lost(&place, 1));
    assert_eq!(collector.holds().next().unwrap().1.committed, 0);
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
fn both_lanes_are_bounded() {
    let mut collector = Collector::default();
    collector.assign(vec![claim("deliveries", 0, 1, 0)]);
    collector.collect(vec![record("deliveries", 0, 0), record("deliveries", 0, 1)], is_delivery);
    assert!(collector.has_room(3, 100));
    assert!(!collector.has_room(2, 100));
    assert!(!collector.has_room(3, 20));
}

const TOPICS: [&str; 3] = ["events", "acks", "deliveries"];

/// What comes to the collector, from the group, the consumer and the flush.
#[derive(Debug, Clone)]
enum Step {
    /// A partition is claimed: events at a position, acks and deliveries with it.
    Assign(i32),
    Revoke(i32),
    /// One place was lost to somebody else.
    Lose(usize, i32),
    /// Records are read of a place, from so many before the last one read: a consumer may seek back.
    Read {
        topic: usize,
        partition: i32,
        back: i64,
        count: i64,
    },
    /// A transaction; with `false` it found that the claims of its first place were lost.
    Flush {
        max_records: usize,
        max_bytes: usize,
        holds: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..3_i32).prop_map(Step::Assign),
        1 => (0..3_i32).prop_map(Step::Revoke),
        1 => (0..3_usize, 0..3_i32).prop_map(|(topic, partition)| Step::Lose(topic, partition)),
        8 => (0..3_usize, 0..3_i32, 0..3_i64, 1..6_i64)
            .prop_map(|(topic, partition, back, count)| Step::Read { topic, partition, back, count }),
        5 => (1..8_usize, 1..80_usize, prop::bool::weighted(0.9))
            .prop_map(|(max_records, max_bytes, holds)| Step::Flush { max_records, max_bytes, holds }),
    ];
    prop::collection::vec(step, 1..150)
}

/// The world around the collector: what lies in the database, and how far each place was read.
#[derive(Default)]
struct World {
    collector: Collector,
    /// By place: the epoch, the position, and where reading goes on. Gone with the claim.
    claims: BTreeMap<Place, (i64, i64, i64)>,
    /// Positions outlive their claims.
    positions: BTreeMap<Place, i64>,
    last_epoch: i64,
}

fn place(topic: usize, partition: i32) -> Place {
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
            let next = self.positions.get(&place(topic, partition)).copied().unwrap_or(0);
            self.claims.insert(place(topic, partition), (self.last_epoch, next, next));
            claim(TOPICS[topic], partition, self.last_epoch, next)
        });
        let claims = claims.collect();
        self.collector.assign(claims);
    }

    /// What was read and is neither written nor lost, by place.
    fn open(&self) -> Vec<(Place, i64)> {
        let open = |(place, (_, written, read)): (&Place, &(i64, i64, i64))| {
            let place = place.clone();
            (*written..*read).filter(is_there).map(move |offset| (place.clone(), offset)).collect::<Vec<_>>()
        };
        self.claims.iter().flat_map(open).collect()
    }

    /// One transaction: what it holds is exactly what is next of each of its places.
    fn flush(&mut self, max_records: usize, max_bytes: usize, holds: bool) -> Result<bool, TestCaseError> {
        let open = self.open();
        let Some(batch) = self.collector.take_batch(max_records, max_bytes) else {
            prop_assert!(open.is_empty(), "{:?} were forgotten", open);
            return Ok(false);
        };
        let bytes: usize = batch.records.iter().map(Record::size).sum();
        prop_assert!(batch.records.len() <= max_records && (bytes <= max_bytes || batch.records.len() == 1));
        let of_deliveries = batch.records.iter().filter(|record| is_delivery(&record.topic)).count();
        prop_assert!(
            of_deliveries == 0
                || of_deliveries == batch.records.len() && open.iter().all(|((topic, _), _)| is_delivery(topic))
        );
        let lost = (!holds).then(|| (batch.records[0].topic.clone(), batch.records[0].partition));
        for (place, hold) in &batch.holds {
            let (epoch, written, _) = self.claims[place];
            prop_assert_eq!(
                (hold.epoch, hold.committed),
                (epoch, written),
                "the claim and the position that the database has"
            );
            let of_place =
                batch.records.iter().filter(|record| (&record.topic, record.partition) == (&place.0, place.1));
            let offsets: Vec<i64> = of_place.map(|record| record.offset).collect();
            let expected: Vec<i64> =
                open.iter().filter(|(of, _)| of == place).map(|(_, offset)| *offset).take(offsets.len()).collect();
            prop_assert_eq!(&offsets, &expected, "each once, in order, none left out");
            if lost.as_ref() == Some(place) {
                prop_assert!(self.collector.lost(place, epoch));
                self.claims.remove(place);
                continue;
            }
            let committed = offsets.last().map_or(written, |last| last + 1);
            self.collector.committed(place, &Hold { committed, ..*hold });
            self.claims.entry(place.clone()).and_modify(|claim| claim.1 = committed);
            self.positions.insert(place.clone(), committed);
        }
        prop_assert!(
            batch.records.iter().all(|record| batch.holds.contains_key(&(record.topic.clone(), record.partition)))
        );
        Ok(true)
    }
}

proptest! {
    #[test]
    fn every_record_under_a_claim_is_in_one_batch_in_order_within_bounds_and_none_of_a_lost_claim_is(steps in steps()) {
        let mut world = World::default();
        for step in steps {
            match step {
                Step::Assign(partition) => world.assign(partition),
                Step::Revoke(partition) => {
                    world.collector.revoke(&[partition]);
                    world.claims.retain(|(_, of), _| *of != partition);
                }
                Step::Lose(topic, partition) => {
                    let place = place(topic, partition);
                    let held = world.claims.remove(&place);
                    prop_assert_eq!(world.collector.lost(&place, held.map_or(0, |claim| claim.0)), held.is_some());
                }
                Step::Read { topic, partition, back, count } => {
                    let place = place(topic, partition);
                    // Without a claim records still arrive for a moment; from anywhere.
                    let next = world.claims.get(&place).map_or(7, |claim| claim.2);
                    let read = (next - back).max(0)..next + count;
                    world.collector.collect(read.clone().filter(is_there).map(|offset| record(TOPICS[topic], partition, offset)).collect(), is_delivery);
                    world.claims.entry(place).and_modify(|claim| claim.2 = read.end);
                }
                Step::Flush { max_records, max_bytes, holds } => {
                    world.flush(max_records, max_bytes, holds)?;
                }
            }
        }
        while world.flush(5, 50, true)? {}
        prop_assert!(world.collector.has_room(1, 1), "and nothing is left");
    }
}
