//! How far a consumer is behind the log: the end of its topic, less its position in PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use loadkit::Role;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use runtime::postgres::connect_options;
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};

use crate::eventually::eventually;
use crate::target::Target;

const BUDGET: Duration = Duration::from_secs(10);
/// Between two looks whether a consumer has caught up.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Reads the lag of one consumer of one topic.
pub(crate) struct LagReader {
    kafka: Arc<BaseConsumer>,
    connection: PgConnection,
    /// As it is named in `consumer_positions`.
    pub(crate) consumer: String,
    topic: String,
    partitions: i32,
}

/// Waits until `role` has applied what the topic of events has. Nothing else may write to it meanwhile.
///
/// # Errors
/// When that takes longer than `within`, or `target` has no broker or no database.
pub(crate) async fn wait_for(target: &Target, role: Role, within: Duration) -> Result<()> {
    let mut lag = LagReader::of(target, role).await?.context("the system has no broker or no database")?;
    lag.wait_until_applied(within).await
}

impl LagReader {
    /// For `role` of the product and the topic of events; `None` if `target` has no broker or no database.
    pub(crate) async fn of(target: &Target, role: Role) -> Result<Option<Self>> {
        match (&target.kafka_brokers, &target.database_url) {
            (Some(brokers), Some(database_url)) => {
                Self::connect(brokers, database_url, role.name(), schemas::topics::EVENTS).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// For `consumer` of `topic`, as both are named in `consumer_positions`.
    pub(crate) async fn connect(brokers: &str, database_url: &str, consumer: &str, topic: &str) -> Result<Self> {
        let kafka: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", brokers).create().context("creating a Kafka client")?;
        let (kafka, name) = (Arc::new(kafka), topic.to_owned());
        let asked = Arc::clone(&kafka);
        let metadata = tokio::task::spawn_blocking(move || asked.fetch_metadata(Some(&name), BUDGET));
        let metadata = metadata.await.context("reading the topic's metadata")??;
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        let options = connect_options(database_url).context("the database URL is invalid")?;
        let options = options.application_name("bench").disable_statement_logging();
        let connection = PgConnection::connect_with(&options).await.context("connecting to the database")?;
        let (consumer, topic) = (consumer.to_owned(), topic.to_owned());
        let partitions = i32::try_from(partitions).unwrap_or(0);
        Ok(Self { kafka, connection, consumer, topic, partitions })
    }

    /// Records that the consumer has not applied.
    pub(crate) async fn records(&mut self) -> Result<u64> {
        let (kafka, topic, partitions) = (Arc::clone(&self.kafka), self.topic.clone(), self.partitions);
        let end = tokio::task::spawn_blocking(move || -> Result<i64> {
            let mut end = 0;
            for partition in 0..partitions {
                end += kafka.fetch_watermarks(&topic, partition, BUDGET).context("reading the end of the log")?.1;
            }
            Ok(end)
        });
        let end = end.await.context("reading the end of the log")??;
        let applied: Option<i64> = sqlx::query_scalar(
            "SELECT sum(next_offset)::bigint FROM consumer_positions WHERE consumer = $1 AND topic = $2",
        )
        .bind(&self.consumer)
        .bind(&self.topic)
        .fetch_one(&mut self.connection)
        .await
        .context("reading the positions")?;
        Ok(u64::try_from(end - applied.unwrap_or(0)).unwrap_or(0))
    }

    /// Waits until nothing is left.
    ///
    /// # Errors
    /// When that takes longer than `within`.
    pub(crate) async fn wait_until_applied(&mut self, within: Duration) -> Result<()> {
        let what = format!("{} has applied all records of {}", self.consumer, self.topic);
        let mut left = None;
        let applied = eventually(LOOK_AGAIN, within, &what, async || {
            let records = self.records().await?;
            left = Some(records);
            Ok((records == 0).then_some(()))
        });
        let outcome = applied.await;
        outcome.map_err(|error| match left {
            Some(left) => error.context(format!("{left} records are not applied")),
            None => error,
        })
    }
}
