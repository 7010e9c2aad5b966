//! The producer, the topics and the fenced consumer, on a real Kafka and a real PostgreSQL.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka::consumer::{ConsumerEvent, ConsumerSettings, FencedConsumer};
use kafka::fence::{self, Advance, Claim};
use kafka::producer::{Producer, ProducerRecord, ProducerSettings, PublishError};
use kafka::topics;
use kafka::{KafkaConfig, Record};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use schemas::topics::TopicNames;
use sqlx::postgres::PgPool;
pub(crate) use testkit::setup::topics as cluster;
use testkit::setup::{ONE_REPLICA as ONE, apply_topics};
use tokio::sync::mpsc;

use crate::database;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn publish(producer: &Producer, topic: &str, key: &str, value: &str) -> kafka::producer::Appended {
    let record =
        ProducerRecord { topic, key: Some(key.as_bytes()), value: Some(value.as_bytes()), headers: &[("h", b"1")] };
    producer.publish(record).await.unwrap()
}

pub(crate) fn start(kafka: &KafkaConfig, pool: &PgPool) -> (FencedConsumer, mpsc::Receiver<ConsumerEvent>) {
    let mut settings = ConsumerSettings::new("test", &kafka.topics.group_materializer, &kafka.topics.events);
    settings.companion_topics = vec![kafka.topics.acks.clone()];
    settings.session_timeout = Duration::from_secs(2);
    FencedConsumer::start(kafka, pool.clone(), settings).unwrap()
}

/// What an owner keeps: claims, and the records read under them.
#[derive(Default)]
pub(crate) struct Owner {
    pub claims: BTreeMap<(String, i32), Claim>,
    pub records: Vec<Record>,
}

impl Owner {
    pub(crate) async fn take(&mut self, received: &mut mpsc::Receiver<ConsumerEvent>) {
        match tokio::time::timeout(PATIENCE, received.recv())
            .await
            .expect("the consumer says nothing")
            .expect("the consumer ended")
        {
            ConsumerEvent::Assigned(claims) => {
                self.claims.extend(claims.into_iter().map(|claim| ((claim.topic.to_string(), claim.partition), claim)));
            }
            ConsumerEvent::Revoked(partitions) => {
                self.claims.retain(|(_, partition), _| !partitions.contains(partition))
            }
            ConsumerEvent::Records(records) => {
                for record in &records {
                    let claim = self.claims.get(&(record.topic.to_string(), record.partition));
                    assert!(claim.is_some(), "a record of {}[{}] came without a claim", record.topic, record.partition);
                }
                self.records.extend(records);
            }
            ConsumerEvent::Stopped { reason, .. } | ConsumerEvent::Failed(reason) => panic!("{reason}"),
        }
    }

    pub(crate) fn values(&self, topic: &str) -> Vec<String> {
        let of_topic = self.records.iter().filter(|record| *record.topic == *topic);
        of_topic.map(|record| String::from_utf8(record.value.clone().unwrap_or_default()).unwrap()).collect()
    }

    /// Commits everything read so far.
    async fn commit(&self, pool: &PgPool) {
        let mut transaction = runtime::postgres::begin(pool).await.unwrap();
        for ((topic, partition), claim) in &self.claims {
            let read = self.records.iter().filter(|record| *record.topic == **topic && record.partition == *partition);
            let Some(next) = read.map(|record| record.offset + 1).max() else { continue };
            let step = Advance {
                topic: claim.topic.clone(),
                partition: *partition,
                epoch: claim.epoch,
                expected: claim.next_offset,
                next,
                record_time_ms: None,
            };
            assert_eq!(fence::advance(&mut transaction, "test", &[step]).await.unwrap(), vec![true]);
        }
        transaction.commit().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_owner_continues_at_the_stored_positions() {
    let (database, pool) = database().await;
    let kafka = cluster(3).await;
    let producer = Producer::new(&kafka, ProducerSettings::default()).unwrap();
    for n in 0..20 {
        publish(&producer, &kafka.topics.events, &format!("key-{n}"), &format!("event-{n}")).await;
        publish(&producer, &kafka.topics.acks, &format!("key-{n}"), &format!("ack-{n}")).await;
    }
    let (consumer, mut received) = start(&kafka, &pool);
    let mut owner = Owner::default();
    while owner.records.len() < 40 {
        owner.take(&mut received).await;
    }
    assert_eq!(owner.claims.len(), 6, "three partitions of two topics");
    assert_eq!((owner.values(&kafka.topics.events).len(), owner.values(&kafka.topics.acks).len()), (20, 20));
    assert!(owner.records.iter().all(|record| record.headers == vec![("h".to_owned(), b"1".to_vec())]));
    owner.commit(&pool).await;
    drop(received);
    consumer.stop(PATIENCE).await;

    publish(&producer, &kafka.topics.events, "key-0", "later").await;
    let (consumer, mut received) = start(&kafka, &pool);
    let mut next_owner = Owner::default();
    while next_owner.records.is_empty() {
        next_owner.take(&mut received).await;
    }
    assert_eq!(next_owner.values(&kafka.topics.events), vec!["later"], "what was committed is not read again");
    drop(received);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_member_fences_the_first_in_its_partitions() {
    let (database, pool) = database().await;
    let kafka = cluster(4).await;
    let (first, mut first_events) = start(&kafka, &pool);
    let mut one = Owner::default();
    while one.claims.len() < 8 {
        one.take(&mut first_events).await;
    }
    let before = one.claims.clone();
    let (second, mut second_events) = start(&kafka, &pool);
    let mut other = Owner::default();
    let both = async {
        while other.claims.len() < 4 || one.claims.len() > 4 {
            tokio::select! {
                () = one.take(&mut first_events) => {}
                () = other.take(&mut second_events) => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, both).await.expect("the group does not settle");
    assert!(one.claims.keys().all(|owned| !other.claims.contains_key(owned)), "no partition has two owners");
    for (owned, claim) in &other.claims {
        let stale = Advance {
            topic: claim.topic.clone(),
            partition: owned.1,
            epoch: before[owned].epoch,
            expected: claim.next_offset,
            next: 1,
            record_time_ms: None,
        };
        let mut transaction = runtime::postgres::begin(&pool).await.unwrap();
        assert_eq!(fence::advance(&mut transaction, "test", &[stale]).await.unwrap(), vec![false]);
    }
    drop((first_events, second_events));
    first.stop(PATIENCE).await;
    second.stop(PATIENCE).await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_outside_of_the_log_stops_only_its_partition() {
    let (database, pool) = database().await;
    let kafka = cluster(2).await;
    let topic = kafka.topics.events.clone();
    sqlx::query(
        "INSERT INTO consumer_positions (consumer, topic, partition, next_offset) VALUES ('test', $1, 0, 1000)",
    )
    .bind(&topic)
    .execute(&pool)
    .await
    .unwrap();
    let (consumer, mut received) = start(&kafka, &pool);
    let mut stopped = None;
    let mut assigned = Vec::new();
    while stopped.is_none() || assigned.is_empty() {
        match tokio::time::timeout(PATIENCE, received.recv()).await.unwrap().unwrap() {
            ConsumerEvent::Stopped { topic, partition, reason } => {
                stopped = Some((topic.to_string(), partition, reason))
            }
            ConsumerEvent::Assigned(claims) => assigned = claims,
            other => panic!("{other:?}"),
        }
    }
    let (stopped_topic, partition, reason) = stopped.unwrap();
    assert_eq!((stopped_topic, partition), (topic.clone(), 0));
    assert!(reason.contains("1000"), "{reason}");
    assert!(assigned.iter().any(|claim| *claim.topic == *topic && claim.partition == 1));
    assert!(!assigned.iter().any(|claim| *claim.topic == *topic && claim.partition == 0));
    drop(received);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_subscribed_topic_stops_its_partition() {
    truncated_before_it_was_read(|topics| topics.events.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_companion_topic_stops_its_partition() {
    truncated_before_it_was_read(|topics| topics.acks.clone()).await;
}

/// An owner that does not take what is read, more records than are read ahead, and then a log that begins after them.
async fn truncated_before_it_was_read(which: fn(&TopicNames) -> String) {
    const RECORDS: usize = 30_000;
    let (database, pool) = database().await;
    let kafka = cluster(1).await;
    let topic = which(&kafka.topics);
    let (consumer, mut received) = start(&kafka, &pool);
    Owner::default().take(&mut received).await;
    let producer = Producer::new(&kafka, ProducerSettings::default()).unwrap();
    let value = "v".repeat(200);
    for _ in 0..RECORDS / 5000 {
        futures_util::future::join_all((0..5000).map(|_| publish(&producer, &topic, "k", &value))).await;
    }
    let admin: AdminClient<_> = kafka.client("test").create().unwrap();
    let mut to_the_end = TopicPartitionList::new();
    to_the_end.add_partition_offset(&topic, 0, Offset::End).unwrap();
    admin.delete_records(&to_the_end, &AdminOptions::new()).await.unwrap();

    let mut read = 0;
    let (stopped, reason) = loop {
        match tokio::time::timeout(PATIENCE, received.recv())
            .await
            .expect("the consumer says nothing")
            .expect("the consumer ended")
        {
            ConsumerEvent::Records(records) => read += records.len(),
            ConsumerEvent::Stopped { topic, partition: 0, reason } => break (topic, reason),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(*stopped, *topic);
    assert!(read < RECORDS && reason.contains(&read.to_string()), "{read} were read, {reason}");
    drop(received);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_marker_at_the_end_of_the_log_is_passed() {
    let (database, pool) = database().await;
    let kafka = cluster(1).await;
    let (events, acks) = (kafka.topics.events.clone(), kafka.topics.acks.clone());
    let (consumer, mut received) = start(&kafka, &pool);
    let mut owner = Owner::default();
    owner.take(&mut received).await;
    let events_written = events.clone();
    tokio::task::spawn_blocking({
        let config = kafka.client("test");
        move || {
            let mut config = config;
            let producer: BaseProducer = config.set("transactional.id", &events_written).create().unwrap();
            producer.init_transactions(PATIENCE).unwrap();
            for (topic, commit) in [(&events_written, true), (&acks, false)] {
                producer.begin_transaction().unwrap();
                producer.send(BaseRecord::to(topic).key("k").payload("v")).map_err(|(error, _)| error).unwrap();
                producer.flush(PATIENCE).unwrap();
                if commit {
                    producer.commit_transaction(PATIENCE).unwrap()
                } else {
                    producer.abort_transaction(PATIENCE).unwrap()
                }
            }
        }
    })
    .await
    .unwrap();
    // In the one a record and the end of its transaction, in the other an aborted record and the end of that.
    while owner.records.len() < 3 {
        owner.take(&mut received).await;
    }
    let of = |topic: &str| -> Vec<(i64, bool)> {
        let of_topic = owner.records.iter().filter(|record| *record.topic == *topic);
        of_topic.map(|record| (record.offset, record.is_marker)).collect()
    };
    assert_eq!((of(&events), of(&kafka.topics.acks)), (vec![(0, false), (1, true)], vec![(1, true)]));
    assert!(
        owner.records.iter().all(|record| record.log_time_ms().is_none() == record.is_marker),
        "a marker has no time of the log"
    );
    drop(received);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_are_added_are_read_without_a_restart() {
    let (database, pool) = database().await;
    let kafka = cluster(1).await;
    let (consumer, mut received) = start(&kafka, &pool);
    let mut owner = Owner::default();
    owner.take(&mut received).await;
    assert_eq!(owner.claims.len(), 2, "one partition of each topic");
    apply_topics(&kafka, 2).await;
    while owner.claims.len() < 4 {
        owner.take(&mut received).await;
    }
    drop(received);
    consumer.stop(PATIENCE).await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_differs_is_repaired_once() {
    let kafka = cluster(2).await;
    let manifest = kafka.topics.manifest(2);
    assert_eq!(topics::plan(&kafka, &manifest, ONE).await.unwrap(), vec![], "what was applied differs no more");
    let wider = kafka.topics.manifest(4);
    let differences = topics::plan(&kafka, &wider, ONE).await.unwrap();
    assert_eq!(differences.len(), 3, "{differences:?}");
    topics::apply(&kafka, &differences, ONE).await.unwrap();
    assert_eq!(topics::plan(&kafka, &wider, ONE).await.unwrap(), vec![]);
    assert_eq!(
        topics::plan(&kafka, &manifest, ONE).await.unwrap(),
        vec![],
        "more partitions than wanted are no difference"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_bound_and_a_missing_topic_are_reported_at_once() {
    let kafka = cluster(1).await;
    let settings =
        ProducerSettings { max_in_flight: 1, delivery_timeout: Duration::from_secs(3), ..ProducerSettings::default() };
    let producer = Producer::new(&kafka, settings).unwrap();
    let record = ProducerRecord { topic: &kafka.topics.events, key: Some(b"k"), value: Some(b"v"), headers: &[] };
    let (one, other) = tokio::join!(producer.publish(record), producer.publish(record));
    assert!(one.is_ok(), "{one:?}");
    assert!(matches!(other, Err(PublishError::Busy)), "{other:?}");
    let nowhere = ProducerRecord { topic: "there.is.no.such.topic", ..record };
    let outcome = producer.publish(nowhere).await;
    assert!(matches!(outcome, Err(PublishError::Failed(_) | PublishError::Unknown(_))), "{outcome:?}");
    // librdkafka lets go of a record that timed out at its next look, within about a second.
    let published = || async { producer.publish(record).await.ok() };
    devstack::testing::eventually(PATIENCE, "a failure returns its permits", published).await;
}
