//! Helpers: the topics of a bench, the acks on its log, and somebody who applies them to the view as the projector does.

use std::collections::HashMap;
use std::time::Duration;

use platform::kafka::topics::{self, Replication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList, message::Headers as _};
use schemas::ids::{EventId, OrgId};
use sqlx::postgres::PgPool;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::inbox::harness::Bench;

pub const PARTITIONS: i32 = 3;

/// An ack as it stands on the log.
#[derive(Debug, Clone)]
pub struct Written {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: String,
    pub headers: HashMap<String, String>,
    pub ack: (OrgId, EventId),
}

pub async fn create_topics(bench: &Bench) {
    let replication = Replication { factor: 1, min_in_sync: 1 };
    let differences = topics::plan(&bench.kafka, &bench.topics().manifest(PARTITIONS), replication).await.unwrap();
    topics::apply(&bench.kafka, &differences, replication).await.unwrap();
}

/// Reads the acks topic from its beginning.
pub fn reader(bench: &Bench) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &bench.kafka.brokers).set("group.id", "none").set("fetch.wait.max.ms", "10");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        partitions.add_partition_offset(&bench.topics().acks, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&partitions).unwrap();
    consumer
}

/// The next ack, if one comes soon. Blocks.
fn next(consumer: &BaseConsumer) -> Option<Written> {
    let message = consumer.poll(Duration::from_millis(10))?.ok()?;
    let ack = schemas::codec::decode_ack(message.payload().unwrap()).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let headers = message.headers().unwrap().iter().map(|header| (header.key.to_owned(), text(header.value.unwrap())));
    Some(Written {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap(),
        key: text(message.key().unwrap()),
        headers: headers.collect(),
        ack: (ack.org_id, ack.event_id),
    })
}

/// All acks on the log up to now.
pub async fn written(bench: &Bench) -> Vec<Written> {
    let (consumer, topic) = (reader(bench), bench.topics().acks.clone());
    let read = move || {
        let ends: i64 =
            (0..PARTITIONS).map(|partition| consumer.fetch_watermarks(&topic, partition, Duration::from_secs(10)).unwrap().1).sum();
        let mut written = Vec::new();
        while i64::try_from(written.len()).unwrap() < ends {
            written.extend(next(&consumer));
        }
        written
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// Applies acks to the view, each with the position in one transaction, until the guard is dropped.
pub fn apply(bench: &Bench) -> DropGuard {
    let (consumer, pool, group, topic) =
        (reader(bench), bench.pool.clone(), materializer::projector::CONSUMER.to_owned(), bench.topics().acks.clone());
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let handle = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        while !stopped.is_cancelled() {
            if let Some(ack) = next(&consumer) {
                handle.block_on(apply_one(&pool, &group, &topic, &ack));
            }
        }
    });
    stop.drop_guard()
}

async fn apply_one(pool: &PgPool, group: &str, topic: &str, ack: &Written) {
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query(
        "UPDATE view.events SET acknowledged_at = to_timestamp($3::double precision / 1000)
         WHERE org_id = $1 AND event_id = $2 AND acknowledged_at IS NULL",
    )
    .bind(ack.ack.0.as_uuid())
    .bind(ack.ack.1.as_uuid())
    .bind(ack.timestamp_ms)
    .execute(&mut *transaction)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO consumer_positions (consumer, topic, partition, next_offset) VALUES ($1, $2, $3, $4)
         ON CONFLICT (consumer, topic, partition) DO UPDATE SET next_offset = excluded.next_offset",
    )
    .bind(group)
    .bind(topic)
    .bind(ack.partition)
    .bind(ack.offset + 1)
    .execute(&mut *transaction)
    .await
    .unwrap();
    transaction.commit().await.unwrap();
}
