//! How far the consumers are: the stored positions against the ends of the log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use schemas::topics::TopicNames;
use sqlx::{PgPool, Row};

/// How long Kafka may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// End of each partition, by topic.
pub type Ends = BTreeMap<(String, i32), i64>;

/// A client that only asks.
pub fn client(brokers: &str) -> anyhow::Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "fault-suite").set("enable.auto.commit", "false");
    config.set("isolation.level", "read_committed").set("reconnect.backoff.max.ms", "1000");
    config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
    config.create().context("making a Kafka client")
}

/// Where the topics end now. Blocks.
pub fn ends(client: &BaseConsumer, topics: &TopicNames, partitions: i32) -> anyhow::Result<Ends> {
    let mut ends = Ends::new();
    for topic in [&topics.events, &topics.acks, &topics.deliveries] {
        for partition in 0..partitions {
            let ask = || client.fetch_watermarks(topic, partition, ANSWER);
            let asked = ask().or_else(|_| {
                // It believes in the leader that it knows, for minutes, unless it is made to look.
                let _looked = client.fetch_metadata(Some(topic), ANSWER);
                ask()
            });
            let (_, high) = asked.with_context(|| format!("asking for the end of {topic}"))?;
            ends.insert((topic.clone(), partition), high);
        }
    }
    Ok(ends)
}

/// What brokers do for one topic.
#[derive(Debug, Default)]
pub struct Serving {
    /// Those that lead a partition of it.
    pub leading: BTreeSet<i32>,
    /// Those that are in sync with a leader, or lead.
    pub in_sync: BTreeSet<i32>,
}

/// Which brokers serve a topic now. Blocks.
pub fn serving(client: &BaseConsumer, topic: &str) -> anyhow::Result<Serving> {
    let metadata = client.fetch_metadata(Some(topic), ANSWER).with_context(|| format!("asking who leads {topic}"))?;
    let mut serving = Serving::default();
    for partition in metadata.topics().iter().filter(|told| told.name() == topic).flat_map(|told| told.partitions()) {
        serving.in_sync.extend(partition.isr());
        // One without a leader tells -1.
        serving.leading.extend(Some(partition.leader()).filter(|leader| *leader > 0));
    }
    Ok(serving)
}

/// The first place that a consumer has not passed yet, as a sentence; none when all have reached `ends`.
pub async fn behind(pool: &PgPool, topics: &TopicNames, ends: &Ends) -> anyhow::Result<Option<String>> {
    let rows =
        sqlx::query("SELECT consumer, topic, partition, next_offset FROM consumer_positions").fetch_all(pool).await?;
    let mut positions = BTreeMap::new();
    for row in rows {
        let place: (String, String, i32) = (row.try_get("consumer")?, row.try_get("topic")?, row.try_get("partition")?);
        positions.insert(place, row.try_get::<i64, _>("next_offset")?);
    }
    for ((topic, partition), end) in ends.iter().filter(|(_, end)| **end > 0) {
        let readers: &[&str] =
            if *topic == topics.events { &["materializer", "dispatcher"] } else { &["materializer"] };
        for reader in readers {
            let at = positions.get(&((*reader).to_owned(), topic.clone(), *partition)).copied();
            if at.is_none_or(|at| at < *end) {
                let at = at.map_or_else(|| "nowhere".to_owned(), |at| at.to_string());
                return Ok(Some(format!("the {reader} stands at {at} of {end} in {topic}/{partition}")));
            }
        }
    }
    Ok(None)
}
