//! End offsets of the log, the brokers of a topic, and the lag of the product's consumers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use schemas::topics::TopicNames;
use sqlx::{PgPool, Row};

/// How long a request to Kafka may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// End offset of each partition, by topic and partition.
pub(crate) type EndOffsets = BTreeMap<(String, i32), i64>;

/// A consumer that joins no group: it reads the log and asks for offsets.
pub(crate) fn client(brokers: &str) -> anyhow::Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "fault-suite").set("enable.auto.commit", "false");
    config.set("isolation.level", "read_committed").set("reconnect.backoff.max.ms", "1000");
    config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
    config.create().context("creating a Kafka client")
}

/// The current end offsets of the topics. Blocks.
pub(crate) fn end_offsets(client: &BaseConsumer, topics: &TopicNames, partitions: i32) -> anyhow::Result<EndOffsets> {
    let mut ends = EndOffsets::new();
    for topic in [&topics.events, &topics.acks, &topics.deliveries] {
        for partition in 0..partitions {
            let ask = || client.fetch_watermarks(topic, partition, TIMEOUT);
            let answer = ask().or_else(|_| {
                // librdkafka keeps a stale leader for minutes unless its metadata is refreshed.
                let _refreshed = client.fetch_metadata(Some(topic), TIMEOUT);
                ask()
            });
            let (_, high) = answer.with_context(|| format!("asking for the end offset of {topic}"))?;
            ends.insert((topic.clone(), partition), high);
        }
    }
    Ok(ends)
}

/// The brokers of one topic.
#[derive(Debug, Default)]
pub(crate) struct TopicBrokers {
    /// Leaders of its partitions.
    pub leaders: BTreeSet<i32>,
    /// In-sync replicas of its partitions, leaders included.
    pub in_sync: BTreeSet<i32>,
}

/// The current brokers of a topic. Blocks.
pub(crate) fn topic_brokers(client: &BaseConsumer, topic: &str) -> anyhow::Result<TopicBrokers> {
    let metadata =
        client.fetch_metadata(Some(topic), TIMEOUT).with_context(|| format!("asking for the leaders of {topic}"))?;
    let mut brokers = TopicBrokers::default();
    for partition in metadata.topics().iter().filter(|found| found.name() == topic).flat_map(|found| found.partitions())
    {
        brokers.in_sync.extend(partition.isr());
        // The leader of a leaderless partition is -1.
        brokers.leaders.extend(Some(partition.leader()).filter(|leader| *leader > 0));
    }
    Ok(brokers)
}

/// The first partition in which a consumer is behind `ends`, as a sentence; `None` when all have caught up.
pub(crate) async fn first_lag(pool: &PgPool, topics: &TopicNames, ends: &EndOffsets) -> anyhow::Result<Option<String>> {
    let rows =
        sqlx::query("SELECT consumer, topic, partition, next_offset FROM consumer_positions").fetch_all(pool).await?;
    let mut positions = BTreeMap::new();
    for row in rows {
        let key: (String, String, i32) = (row.try_get("consumer")?, row.try_get("topic")?, row.try_get("partition")?);
        positions.insert(key, row.try_get::<i64, _>("next_offset")?);
    }
    for ((topic, partition), end) in ends.iter().filter(|(_, end)| **end > 0) {
        let consumers: &[&str] =
            if *topic == topics.events { &["materializer", "dispatcher"] } else { &["materializer"] };
        for consumer in consumers {
            let at = positions.get(&((*consumer).to_owned(), topic.clone(), *partition)).copied();
            if at.is_none_or(|at| at < *end) {
                let at = at.map_or_else(|| "no position".to_owned(), |at| at.to_string());
                return Ok(Some(format!("the {consumer} is at {at} of {end} in {topic}/{partition}")));
            }
        }
    }
    Ok(None)
}
