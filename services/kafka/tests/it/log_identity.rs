//! Whether positions are read on in the log that they are of: a topic that was created again, a log that lost its end,
//! and everything that only looks like it. On a real Kafka; elections on three nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use devstack::testing::eventually;
use devstack::{Cluster, ClusterOptions};
use kafka::KafkaConfig;
use kafka::consumer::{ConsumerEvent, FencedConsumer};
use kafka::fence::Claim;
use kafka::fence::repair::StoredPosition;
use kafka::log_identity::LogIdentity;
use kafka::producer::{Producer, ProducerSettings};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use schemas::topics::TopicNames;
use sqlx::postgres::PgPool;
use tokio::sync::mpsc;

use crate::consumer::{Owner, PATIENCE, cluster, publish, start};
use crate::database;

const ELECTION: Duration = Duration::from_secs(90);
const LEADERLESS: &str = "the brokers did not report";

pub(crate) fn admin(kafka: &KafkaConfig) -> AdminClient<DefaultClientContext> {
    kafka.client("test").create().unwrap()
}

pub(crate) async fn create(kafka: &KafkaConfig, topic: &NewTopic<'_>) {
    let admin = admin(kafka);
    eventually(PATIENCE, "the topic is created", || async {
        let created =
            admin.create_topics([topic], &AdminOptions::new().operation_timeout(Some(PATIENCE))).await.ok()?;
        created[0].is_ok().then_some(())
    })
    .await;
}

/// Deletes a topic and creates it again, with so many records.
async fn recreate(kafka: &KafkaConfig, topic: &str, records: usize) {
    admin(kafka).delete_topics(&[topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    create(kafka, &NewTopic::new(topic, 1, TopicReplication::Fixed(1))).await;
    send(kafka, topic, records, "new").await;
}

/// Sends at once. The leader alone confirms.
async fn send(kafka: &KafkaConfig, topic: &str, records: usize, value: &'static str) {
    let (mut config, topic) = (kafka.client("test"), topic.to_owned());
    let send = move || {
        config.set("acks", "1").set("topic.metadata.refresh.interval.ms", "500");
        let producer: BaseProducer = config.create().unwrap();
        for _ in 0..records {
            let record = BaseRecord::to(&topic).partition(0).key("k").payload(value);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(ELECTION).unwrap();
    };
    tokio::task::spawn_blocking(send).await.unwrap();
}

/// An aborted transaction: a record that nobody sees, and a marker.
async fn abort(kafka: &KafkaConfig, topic: &str) {
    let (mut config, topic) = (kafka.client("test"), topic.to_owned());
    let abort = move || {
        let producer: BaseProducer = config.set("transactional.id", &topic).create().unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        producer.begin_transaction().unwrap();
        producer.send(BaseRecord::to(&topic).partition(0).key("k").payload("v")).map_err(|(error, _)| error).unwrap();
        producer.flush(PATIENCE).unwrap();
        producer.abort_transaction(PATIENCE).unwrap();
    };
    tokio::task::spawn_blocking(abort).await.unwrap();
}

/// Reads until the position of `topic` would be `next`, and commits it. A partition without a leader is waited for.
async fn read_to(
    next: i64,
    topic: &str,
    received: &mut mpsc::Receiver<ConsumerEvent>,
    owner: &mut Owner,
    pool: &PgPool,
) {
    while owner.records.iter().filter(|record| *record.topic == *topic).all(|record| record.offset + 1 < next) {
        match tokio::time::timeout(ELECTION, received.recv()).await.expect("nothing is read").unwrap() {
            ConsumerEvent::Assigned(claims) => {
                let owned = |claim: &Claim| (claim.topic.to_string(), claim.partition);
                owner.claims.extend(claims.into_iter().map(|claim| (owned(&claim), claim)));
            }
            ConsumerEvent::Records(records) => owner.records.extend(records),
            ConsumerEvent::Revoked(_) => {}
            ConsumerEvent::Stopped { reason, .. } if reason.contains(LEADERLESS) => {}
            ConsumerEvent::Stopped { reason, .. } | ConsumerEvent::Failed(reason) => {
                panic!("a healthy log stops: {reason}")
            }
        }
    }
    let sql = "UPDATE consumer_positions SET next_offset = $1 WHERE consumer = 'test' AND topic = $2";
    assert_eq!(sqlx::query(sql).bind(next).bind(topic).execute(pool).await.unwrap().rows_affected(), 1);
}

/// Restarts the consumer as its owner does, until `topic` stops: why. Records of the topic must not come.
async fn stopped(
    topic: &str,
    first: (FencedConsumer, mpsc::Receiver<ConsumerEvent>),
    restart: impl Fn() -> (FencedConsumer, mpsc::Receiver<ConsumerEvent>),
) -> String {
    let (mut consumer, mut received) = first;
    loop {
        match tokio::time::timeout(ELECTION, received.recv()).await.expect("nothing happens").unwrap() {
            ConsumerEvent::Stopped { topic: of, reason, .. } if *of == *topic && !reason.contains(LEADERLESS) => {
                drop(received);
                consumer.stop(PATIENCE).await;
                return reason;
            }
            ConsumerEvent::Records(records) => {
                let of_topic: Vec<_> = records.iter().filter(|record| *record.topic == *topic).collect();
                assert!(of_topic.is_empty(), "records of another log are handed over: {of_topic:?}");
            }
            ConsumerEvent::Failed(_) => {
                drop(received);
                consumer.stop(PATIENCE).await;
                (consumer, received) = restart();
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_created_again_stops_at_the_claim() {
    let (database, pool) = database().await;
    let kafka = cluster(1).await;
    let topic = kafka.topics.events.clone();
    let (consumer, mut received) = start(&kafka, &pool);
    send(&kafka, &topic, 3, "old").await;
    read_to(3, &topic, &mut received, &mut Owner::default(), &pool).await;
    drop(received);
    consumer.stop(PATIENCE).await;
    recreate(&kafka, &topic, 30).await;
    let reason = stopped(&topic, start(&kafka, &pool), || start(&kafka, &pool)).await;
    assert!(reason.contains("deleted and created again"), "{reason}");
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscribed_topic_created_again_stops_while_it_is_read() {
    created_again_while_it_is_read(|topics| topics.events.clone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_companion_topic_created_again_stops_while_it_is_read() {
    created_again_while_it_is_read(|topics| topics.acks.clone()).await;
}

async fn created_again_while_it_is_read(which: fn(&TopicNames) -> String) {
    let (database, pool) = database().await;
    let kafka = cluster(1).await;
    let topic = which(&kafka.topics);
    let (consumer, mut received) = start(&kafka, &pool);
    send(&kafka, &topic, 3, "old").await;
    read_to(3, &topic, &mut received, &mut Owner::default(), &pool).await;
    recreate(&kafka, &topic, 30).await;
    let reason = stopped(&topic, (consumer, received), || start(&kafka, &pool)).await;
    assert!(reason.contains("deleted and created again"), "{reason}");
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_log_is_read_on_over_claims_and_markers() {
    let (database, pool) = database().await;
    let kafka = cluster(1).await;
    let topic = kafka.topics.events.clone();
    let mut next = 0;
    for _ in 0..3 {
        let (consumer, mut received) = start(&kafka, &pool);
        let mut owner = Owner::default();
        let producer = Producer::new(&kafka, ProducerSettings::default()).unwrap();
        publish(&producer, &topic, "k", "v").await;
        abort(&kafka, &topic).await;
        next += 3;
        read_to(next, &topic, &mut received, &mut owner, &pool).await;
        assert_eq!(owner.claims[&(topic.clone(), 0)].next_offset, next - 3);
        drop(received);
        consumer.stop(PATIENCE).await;
    }
    let epoch: Option<i32> =
        sqlx::query_scalar("SELECT leader_epoch FROM consumer_positions WHERE consumer = 'test' AND topic = $1")
            .bind(&topic)
            .fetch_one(&pool)
            .await
            .unwrap();
    assert!(epoch.is_some(), "its leader epoch is stored, so claims were validated");
    drop((pool, database));
}

/// The topics of the consumer; of the events, nodes 1 and 2 have a copy each, and either may lead without the other.
async fn topics_on(kafka: &KafkaConfig) {
    let copies: &[&[i32]] = &[&[1, 2]];
    let events = NewTopic::new(&kafka.topics.events, 1, TopicReplication::Variable(copies))
        .set("min.insync.replicas", "1")
        .set("unclean.leader.election.enable", "true");
    create(kafka, &events).await;
    create(kafka, &NewTopic::new(&kafka.topics.acks, 1, TopicReplication::Fixed(3))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elections_stop_a_partition_only_when_its_log_lost_records() {
    let (database, pool) = database().await;
    let nodes = Cluster::start(ClusterOptions { nodes: 3, small_disk_mib: None }).await.unwrap();
    let kafka = KafkaConfig::new(nodes.kafka_brokers(), "elections.");
    topics_on(&kafka).await;
    let topic = kafka.topics.events.clone();
    let (consumer, mut received) = start(&kafka, &pool);
    let mut owner = Owner::default();
    send(&kafka, &topic, 5, "first").await;
    read_to(5, &topic, &mut received, &mut owner, &pool).await;

    // The leader leaves, and the other one leads: a marker is the first of the new leader epoch.
    nodes.node(1).unwrap().stop().await;
    abort(&kafka, &topic).await;
    read_to(7, &topic, &mut received, &mut owner, &pool).await;
    // The leader epoch of the marker is validated at the next claim.
    drop(received);
    consumer.stop(PATIENCE).await;
    let (consumer, mut received) = start(&kafka, &pool);
    nodes.start_nodes(&[1]).await.unwrap();
    send(&kafka, &topic, 5, "second").await;
    read_to(12, &topic, &mut received, &mut owner, &pool).await;
    eventually(PATIENCE, "both have a copy", || async { in_sync(&kafka, &topic, 2).await }).await;
    // An unclean election without loss: node 2 is not in sync, and has everything all the same.
    nodes.node(2).unwrap().stop().await;
    nodes.node(1).unwrap().kill().await;
    nodes.start_nodes(&[2]).await.unwrap();
    send(&kafka, &topic, 5, "third").await;
    read_to(17, &topic, &mut received, &mut owner, &pool).await;
    let read: BTreeSet<i64> =
        owner.records.iter().filter(|record| !record.is_marker).map(|record| record.offset).collect();
    assert_eq!(read.len(), 15, "nothing was lost: {read:?}");

    // Node 1 does not get what node 2 is sent from here on, and leads after it: the log loses its end, and grows again.
    nodes.start_nodes(&[1]).await.unwrap();
    eventually(PATIENCE, "both have a copy", || async { in_sync(&kafka, &topic, 2).await }).await;
    nodes.node(1).unwrap().stop().await;
    send(&kafka, &topic, 5, "lost").await;
    read_to(22, &topic, &mut received, &mut owner, &pool).await;
    nodes.node(2).unwrap().kill().await;
    nodes.start_nodes(&[1]).await.unwrap();
    send(&kafka, &topic, 30, "grown").await;
    // A consumer that was quick saw the log before it grew. A claim from now on cannot.
    let reason = stopped(&topic, (consumer, received), || start(&kafka, &pool)).await;
    assert!(reason.contains("the position is 22"), "{reason}");
    let reason = stopped(&topic, start(&kafka, &pool), || start(&kafka, &pool)).await;
    assert!(reason.contains("lost records before the position") && reason.contains("22"), "{reason}");
    nodes.stop().await;
    drop((pool, database));
}

/// Whether so many copies of the first partition are in sync.
async fn in_sync(kafka: &KafkaConfig, topic: &str, copies: usize) -> Option<()> {
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    let (config, topic) = (kafka.client("test"), topic.to_owned());
    let ask = move || {
        let client: BaseConsumer = config.create().ok()?;
        let metadata = client.fetch_metadata(Some(&topic), Duration::from_secs(5)).ok()?;
        let isr = metadata.topics().first()?.partitions().first()?.isr().len();
        (isr == copies).then_some(())
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

/// A client that waits a second after each record, as librdkafka does by default, would answer one of them a second.
#[tokio::test]
async fn partitions_with_a_backlog_are_validated_together() {
    const PARTITIONS: i32 = 24;
    let kafka = testkit::setup::kafka().await;
    let topic = kafka.topics.events.clone();
    create(&kafka, &NewTopic::new(&topic, PARTITIONS, TopicReplication::Fixed(1))).await;
    let (config, of) = (kafka.client("test"), topic.clone());
    let send = move || {
        let producer: BaseProducer = config.create().unwrap();
        for partition in 0..PARTITIONS {
            for _ in 0..2 {
                // Larger than what is asked for.
                let value = vec![b'x'; 100_000];
                let record = BaseRecord::<(), _>::to(&of).partition(partition).payload(&value);
                producer.send(record).map_err(|(error, _)| error).unwrap();
            }
        }
        producer.flush(ELECTION).unwrap();
    };
    tokio::task::spawn_blocking(send).await.unwrap();
    let identity = LogIdentity { topic_id: None, leader_epoch: Some(0) };
    let position = |partition| StoredPosition {
        consumer: "test".to_owned(),
        topic: topic.clone(),
        partition,
        next_offset: 1,
        log_epoch: 1,
        identity,
    };
    let positions: Vec<StoredPosition> = (0..PARTITIONS).map(position).collect();
    for state in kafka::positions::check(&kafka, &positions, PATIENCE / 2).await.unwrap() {
        assert_eq!(state.unwrap().mismatch, None);
    }
}
