//! The second process of the bare pipeline: reads the topic with one consumer, and writes up to 1,000 records or 20 ms
//! of them in one transaction. It has no duplicates, dead letters, erasure, or fence.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::Message;
use runtime::postgres::connect_options;
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::rows::{self, Row, Rows};

/// A transaction is started when it has so many records, or when its first one has waited so long.
const MAX_RECORDS: usize = 1_000;
const MAX_WAIT: Duration = Duration::from_millis(20);
/// Environment variable with the URL of the database: a command line is not secret.
pub(crate) const DATABASE_URL: &str = "BENCH_DATABASE_URL";

/// The value of a record: the event's id, the length of its type, its type, its payload.
pub(super) fn encode(event_id: Uuid, event_type: &str, payload: &str) -> Vec<u8> {
    let mut value = Vec::with_capacity(17 + event_type.len() + payload.len());
    value.extend_from_slice(event_id.as_bytes());
    value.push(u8::try_from(event_type.len()).unwrap_or(u8::MAX));
    value.extend_from_slice(event_type.as_bytes());
    value.extend_from_slice(payload.as_bytes());
    value
}

fn decode(value: &[u8]) -> Option<(Uuid, &str, &str)> {
    let (id, rest) = value.split_at_checked(16)?;
    let (length, rest) = rest.split_first()?;
    let (event_type, payload) = rest.split_at_checked(usize::from(*length))?;
    Some((Uuid::from_slice(id).ok()?, std::str::from_utf8(event_type).ok()?, std::str::from_utf8(payload).ok()?))
}

/// The organization of a key of the bare loops: the number at its end.
pub(super) fn organization_of(key: &[u8]) -> Uuid {
    let digits = key.rsplit(|byte| !byte.is_ascii_digit()).next().unwrap_or_default();
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    Uuid::from_u128(number.unwrap_or(0))
}

/// Runs until standard input is closed. Prints a line when it reads.
pub(crate) async fn run(brokers: &str, topic: &str) -> Result<()> {
    let url = std::env::var(DATABASE_URL).with_context(|| format!("{DATABASE_URL} is not set"))?;
    let options = connect_options(&url).context("the database URL is invalid")?.disable_statement_logging();
    let mut connection = PgConnection::connect_with(&options).await.context("connecting to the database")?;
    rows::ensure_time_partition(&mut connection).await?;
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", topic)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "100")
        .create()
        .context("creating the consumer")?;
    consumer.subscribe(&[topic]).context("subscribing")?;
    println!("0");
    tokio::select! {
        ended = write_all(&consumer, &mut connection, topic) => ended,
        () = super::server::parent_exited() => Ok(()),
    }
}

async fn write_all(consumer: &StreamConsumer, connection: &mut PgConnection, topic: &str) -> Result<()> {
    let mut batch = Rows::default();
    loop {
        let first = consumer.recv().await.context("reading the topic")?;
        collect(&mut batch, &first)?;
        let until = Instant::now() + MAX_WAIT;
        while batch.len() < MAX_RECORDS {
            match tokio::time::timeout_at(until.into(), consumer.recv()).await {
                Ok(message) => collect(&mut batch, &message.context("reading the topic")?)?,
                Err(_) => break,
            }
        }
        batch.write(connection, topic).await?;
        batch.clear();
    }
}

fn collect(batch: &mut Rows, message: &impl Message) -> Result<()> {
    let (event_id, event_type, payload) = decode(message.payload().unwrap_or_default()).context("an unknown record")?;
    let millis = message.timestamp().to_millis().unwrap_or(0);
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).context("the record's time")?;
    let org_id = organization_of(message.key().unwrap_or_default());
    let (partition, offset) = (message.partition(), message.offset());
    batch.push(&Row { org_id, event_id, partition, offset, at, event_type, payload });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_pipeline_is_read_as_it_was_written() {
        let id = Uuid::now_v7();
        assert_eq!(decode(&encode(id, "load.order", "{\"a\":1}")), Some((id, "load.order", "{\"a\":1}")));
        assert_eq!(decode(b"short"), None);
        assert_eq!(organization_of(b"Bearer zap_test_000017"), Uuid::from_u128(17));
    }
}
