//! A topic for one run of a bare loop or a peer, with the partitions and times of the product's log, which is deleted
//! afterwards. It is not compressed, as a plain producer's is not, unless the loop is to do what the product does.

use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

const BUDGET: Duration = Duration::from_secs(10);

pub(crate) struct Topic {
    pub name: String,
    admin: AdminClient<DefaultClientContext>,
}

impl Topic {
    /// Creates a topic with a unique name, which has `purpose`, and as many partitions as the product's log.
    pub(crate) async fn create(brokers: &str, purpose: &str, zstd: bool) -> anyhow::Result<Self> {
        let name = format!("bench.{purpose}.{}", uuid::Uuid::now_v7());
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", brokers).create().context("creating a Kafka client")?;
        let topic = NewTopic::new(&name, schemas::topics::DEFAULT_PARTITIONS, TopicReplication::Fixed(1))
            .set("message.timestamp.type", "LogAppendTime")
            .set("compression.type", if zstd { "zstd" } else { "producer" })
            // If the topic is never deleted, its records expire.
            .set("retention.ms", "3600000");
        check(admin.create_topics([&topic], &options()).await, "creating the topic")?;
        Ok(Self { name, admin })
    }

    pub(crate) async fn delete(self) -> anyhow::Result<()> {
        check(self.admin.delete_topics(&[&self.name], &options()).await, "deleting the topic")
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(BUDGET)).operation_timeout(Some(BUDGET))
}

fn check(
    result: rdkafka::error::KafkaResult<Vec<rdkafka::admin::TopicResult>>,
    doing: &'static str,
) -> anyhow::Result<()> {
    for topic in result.context(doing)? {
        if let Err((name, code)) = topic {
            bail!("{doing} {name}: {code}");
        }
    }
    Ok(())
}
