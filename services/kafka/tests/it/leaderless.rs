//! Partitions without a leader, on a mock cluster: a real one cannot be made to lose the leader of one partition alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kafka::KafkaConfig;
use kafka::bounds::{self, LogBounds};
use kafka::consumer::{ConsumerEvent, ConsumerSettings, FencedConsumer};
use kafka::fence::Claim;
use rdkafka::consumer::BaseConsumer;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use sqlx::postgres::PgPool;
use tokio::sync::mpsc;

use crate::consumer::PATIENCE;
use crate::database;

type Mock = MockCluster<'static, DefaultProducerContext>;

const PARTITIONS: i32 = 3;
const TIMEOUT: Duration = Duration::from_secs(5);

fn cluster() -> (Mock, KafkaConfig) {
    let mock = MockCluster::new(2).unwrap();
    let kafka = KafkaConfig::new(mock.bootstrap_servers(), "");
    for topic in [&kafka.topics.events, &kafka.topics.acks] {
        mock.create_topic(topic, PARTITIONS, 1).unwrap();
        for partition in 0..PARTITIONS {
            mock.partition_leader(topic, partition, Some(partition % 2 + 1)).unwrap();
        }
    }
    (mock, kafka)
}

async fn publish(kafka: &KafkaConfig, topic: &str, partition: i32, value: &str) {
    let (config, topic, value) = (kafka.client("test"), topic.to_owned(), value.to_owned());
    let publish = move || {
        let producer: BaseProducer = config.create().unwrap();
        producer
            .send(BaseRecord::<str, str>::to(&topic).partition(partition).payload(&value))
            .map_err(|(error, _)| error)
            .unwrap();
        producer.flush(PATIENCE).unwrap();
    };
    tokio::task::spawn_blocking(publish).await.unwrap();
}

/// What an owner learned, by partition.
struct Owner {
    consumer: FencedConsumer,
    received: mpsc::Receiver<ConsumerEvent>,
    claims: BTreeMap<(String, i32), Claim>,
    stopped: BTreeMap<(String, i32), String>,
    values: BTreeSet<String>,
}

impl Owner {
    fn start(kafka: &KafkaConfig, pool: &PgPool, stall_after: Duration) -> Self {
        let mut settings = ConsumerSettings::new("test", &kafka.topics.group_materializer, &kafka.topics.events);
        settings.companion_topics = vec![kafka.topics.acks.clone()];
        settings.session_timeout = Duration::from_secs(6);
        settings.stall_after = stall_after;
        let (consumer, received) = FencedConsumer::start(kafka, pool.clone(), settings).unwrap();
        Self { consumer, received, claims: BTreeMap::new(), stopped: BTreeMap::new(), values: BTreeSet::new() }
    }

    async fn take(&mut self) {
        let message = tokio::time::timeout(PATIENCE, self.received.recv()).await;
        match message
            .unwrap_or_else(|_| panic!("nothing comes; {:?} is stopped, {:?} was read", self.stopped, self.values))
            .unwrap()
        {
            ConsumerEvent::Assigned(claims) => {
                for claim in claims {
                    let owned = (claim.topic.to_string(), claim.partition);
                    self.stopped.remove(&owned);
                    self.claims.insert(owned, claim);
                }
            }
            ConsumerEvent::Revoked(partitions) => {
                self.claims.retain(|(_, partition), _| !partitions.contains(partition));
                self.stopped.retain(|(_, partition), _| !partitions.contains(partition));
            }
            ConsumerEvent::Stopped { topic, partition, reason } => {
                drop(self.stopped.insert((topic.to_string(), partition), reason))
            }
            ConsumerEvent::Records(records) => {
                for record in records {
                    assert!(
                        self.claims.contains_key(&(record.topic.to_string(), record.partition)),
                        "{record:?} without a claim"
                    );
                    self.values.insert(String::from_utf8(record.value.unwrap()).unwrap());
                }
            }
            ConsumerEvent::Failed(reason) => panic!("{reason}"),
        }
    }

    async fn stop(self) {
        drop(self.received);
        self.consumer.stop(PATIENCE).await;
    }
}

fn values(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|value| (*value).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaderless_partitions_are_read_once_they_have_a_leader() {
    let (database, pool) = database().await;
    let (mock, kafka) = cluster();
    let (events, acks) = (kafka.topics.events.clone(), kafka.topics.acks.clone());
    for partition in 0..PARTITIONS {
        publish(&kafka, &events, partition, &format!("event {partition}")).await;
        publish(&kafka, &acks, partition, &format!("ack {partition}")).await;
    }
    mock.partition_leader(&events, 1, None).unwrap();
    mock.partition_leader(&acks, 2, None).unwrap();
    let mut owner = Owner::start(&kafka, &pool, PATIENCE);
    while owner.claims.len() < 4 || owner.stopped.len() < 2 || owner.values.len() < 4 {
        owner.take().await;
    }
    let left: Vec<_> = owner.stopped.keys().cloned().collect();
    let mut expected = vec![(events.clone(), 1), (acks.clone(), 2)];
    expected.sort();
    assert_eq!(left, expected);
    assert!(owner.stopped.values().all(|reason| reason.contains("the brokers did not report")), "{:?}", owner.stopped);
    assert_eq!(owner.values, values(&["event 0", "event 2", "ack 0", "ack 1"]));

    // The other partitions are read meanwhile, and the two come back one after the other.
    publish(&kafka, &events, 0, "event 3").await;
    while !owner.values.contains("event 3") {
        owner.take().await;
    }
    assert_eq!(owner.stopped.len(), 2);
    for (topic, partition, value) in [(&events, 1, "event 1"), (&acks, 2, "ack 2")] {
        mock.partition_leader(topic, partition, Some(1)).unwrap();
        while !owner.values.contains(value) {
            owner.take().await;
        }
        assert!(!owner.stopped.contains_key(&(topic.clone(), partition)));
    }
    assert!(owner.claims.values().all(|claim| claim.next_offset == 0), "{:?}", owner.claims);
    owner.stop().await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaderless_partition_is_read_by_its_next_owner() {
    let (database, pool) = database().await;
    let (mock, kafka) = cluster();
    let events = kafka.topics.events.clone();
    publish(&kafka, &events, 0, "event 0").await;
    mock.partition_leader(&events, 0, None).unwrap();
    let mut first = Owner::start(&kafka, &pool, PATIENCE);
    while first.stopped.is_empty() || first.claims.len() < 5 {
        first.take().await;
    }
    let mut second = Owner::start(&kafka, &pool, PATIENCE);
    // Two partitions here and one there, of two topics each; one partition is not claimed.
    while second.claims.is_empty()
        || first.claims.len() + second.claims.len() != 5
        || first.stopped.len() + second.stopped.len() != 1
    {
        tokio::select! {
            () = first.take() => {}
            () = second.take() => {}
        }
    }
    mock.partition_leader(&events, 0, Some(2)).unwrap();
    // The first one leaves with whatever it has.
    first.stop().await;
    while second.claims.len() < 6 || second.values.is_empty() {
        second.take().await;
    }
    assert_eq!((second.values.clone(), second.stopped.len()), (values(&["event 0"]), 0));
    second.stop().await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_partition_without_a_leader_is_waited_for() {
    let (database, pool) = database().await;
    let (mock, kafka) = cluster();
    for topic in [&kafka.topics.events, &kafka.topics.acks] {
        for partition in 0..PARTITIONS {
            mock.partition_leader(topic, partition, None).unwrap();
        }
    }
    let mut owner = Owner::start(&kafka, &pool, PATIENCE);
    while owner.stopped.len() < 6 {
        owner.take().await;
    }
    for topic in [&kafka.topics.events, &kafka.topics.acks] {
        for partition in 0..PARTITIONS {
            mock.partition_leader(topic, partition, Some(1)).unwrap();
        }
    }
    while owner.claims.len() < 6 {
        owner.take().await;
    }
    assert_eq!(owner.stopped.len(), 0);
    owner.stop().await;
    drop((pool, database));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_are_reported_if_the_leader_answers() {
    let (mock, kafka) = cluster();
    let events = kafka.topics.events.clone();
    publish(&kafka, &events, 0, "event").await;
    let client: Arc<BaseConsumer> = Arc::new(kafka.admin_client("test").set("group.id", "test").create().unwrap());
    let ask = async || {
        let (client, events) = (client.clone(), events.clone());
        tokio::task::spawn_blocking(move || bounds::query(&client, &events, &[0, 1, 2], TIMEOUT)).await.unwrap()
    };
    let answered = async || -> Vec<i32> {
        ask().await.into_iter().filter_map(|(partition, bounds)| bounds.ok().map(|_| partition)).collect()
    };
    assert_eq!(answered().await, [0, 1, 2]);
    assert!(matches!(ask().await[&0], Ok(LogBounds { start: 0, end: 1 })));

    mock.partition_leader(&events, 1, None).unwrap();
    // What the client remembers of leaders is corrected by its first question in vain.
    devstack::testing::eventually(PATIENCE, "the others answer", async || (answered().await == [0, 2]).then_some(()))
        .await;
    // A broker that does not answer: of partitions 0 and 2 it is the leader.
    mock.partition_leader(&events, 1, Some(2)).unwrap();
    devstack::testing::eventually(PATIENCE, "it has a leader again", async || {
        (answered().await == [0, 1, 2]).then_some(())
    })
    .await;
    mock.broker_down(1).unwrap();
    assert_eq!(answered().await, [1]);
    mock.broker_up(1).unwrap();
    devstack::testing::eventually(PATIENCE, "it answers again", async || (answered().await == [0, 1, 2]).then_some(()))
        .await;
}
