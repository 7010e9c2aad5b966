//! Helpers: a topic, a record written and read, a table with rows.

use std::time::Duration;

use devstack::testing::eventually;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use sqlx::{Connection as _, PgConnection};

/// How long a broker that was just started may take for one call.
const DEADLINE: Duration = Duration::from_secs(30);

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("message.timeout.ms", "30000");
    config
}

pub(crate) async fn create_topic(brokers: &str, topic: &str) {
    create_replicated_topic(brokers, topic, 1).await;
}

pub(crate) async fn create_replicated_topic(brokers: &str, topic: &str, copies: i32) {
    let admin: AdminClient<DefaultClientContext> = config(brokers).create().unwrap();
    let topic = NewTopic::new(topic, 3, TopicReplication::Fixed(copies));
    let made = admin.create_topics(&[topic], &AdminOptions::new()).await.unwrap();
    made.into_iter().for_each(|result| drop(result.unwrap()));
}

pub(crate) async fn produce(brokers: &str, topic: &str, payload: &str) {
    try_produce(brokers, topic, payload, DEADLINE).await.unwrap();
}

/// Whether all replicas that must have the record took it in time.
pub(crate) async fn try_produce(
    brokers: &str,
    topic: &str,
    payload: &str,
    deadline: Duration,
) -> Result<(), KafkaError> {
    let mut config = config(brokers);
    config.set("acks", "all").set("message.timeout.ms", deadline.as_millis().to_string());
    let producer: FutureProducer = config.create().unwrap();
    let record = FutureRecord::to(topic).partition(0).key("k").payload(payload);
    producer.send(record, deadline).await.map(drop).map_err(|(error, _)| error)
}

/// The first payload of partition 0.
pub(crate) async fn consume(brokers: &str, topic: &str) -> String {
    let consumer: BaseConsumer = config(brokers).set("group.id", "none").create().unwrap();
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&partitions).unwrap();
    eventually(DEADLINE, "a record is read", || async {
        let message = consumer.poll(Duration::from_millis(20))?.ok()?;
        Some(String::from_utf8(message.payload()?.to_vec()).unwrap())
    })
    .await
}

pub(crate) async fn insert_row(url: &str, value: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query("CREATE TABLE IF NOT EXISTS kept (value text)").execute(&mut connection).await.unwrap();
    sqlx::query("INSERT INTO kept VALUES ($1)").bind(value).execute(&mut connection).await.unwrap();
}

pub(crate) async fn read_rows(url: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar("SELECT value FROM kept ORDER BY value").fetch_all(&mut connection).await.unwrap()
}
