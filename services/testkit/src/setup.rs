//! A database and topics of one test, on the servers that all tests share.

use devstack::testing::TestDatabase;
use kafka::KafkaConfig;
use kafka::producer::{Producer, ProducerSettings};
use kafka::topics::{self, Replication};
use runtime::postgres::{self, PostgresConfig};
use sqlx::postgres::PgPool;

/// The shared Kafka has one broker.
pub const ONE_REPLICA: Replication = Replication { factor: 1, min_in_sync: 1 };

/// A new, migrated database. Keep it until all pools are dropped.
pub async fn database() -> (TestDatabase, PgPool) {
    let database = devstack::testing::shared().await.database().await;
    let pool = pool(&database.url);
    postgres::migrate(&pool).await.unwrap();
    (database, pool)
}

pub fn pool(url: &str) -> PgPool {
    postgres::connect(&PostgresConfig::new(url)).unwrap()
}

/// The shared Kafka under a new topic prefix, without topics.
pub async fn kafka() -> KafkaConfig {
    let shared = devstack::testing::shared().await;
    KafkaConfig::new(shared.brokers(), &shared.topic_prefix())
}

/// The shared Kafka with all topics under a new prefix.
pub async fn topics(partitions: i32) -> KafkaConfig {
    let kafka = kafka().await;
    apply_topics(&kafka, partitions).await;
    kafka
}

/// Creates the topics, or adds what they lack.
pub async fn apply_topics(kafka: &KafkaConfig, partitions: i32) {
    let differences = topics::plan(kafka, &kafka.topics.manifest(partitions), ONE_REPLICA).await.unwrap();
    topics::apply(kafka, &differences, ONE_REPLICA).await.unwrap();
}

/// A producer with the settings of production.
pub fn producer(kafka: &KafkaConfig) -> Producer {
    Producer::new(kafka, ProducerSettings::default()).unwrap()
}
