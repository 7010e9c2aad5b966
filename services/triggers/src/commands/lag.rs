//! `triggers lag`: lag of each consumer, in records, and an upper bound of it in seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use kafka::KafkaConfig;
use kafka::config::KafkaArgs;
use materializer::rebuild::REPLAY;
use rdkafka::consumer::{BaseConsumer, Consumer};
use runtime::config::PostgresArgs;
use runtime::postgres;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::print;
use crate::local_system::LocalSystemArgs;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Options of `triggers lag`.
#[derive(Args)]
pub(crate) struct LagArgs {
    #[command(flatten)]
    local: LocalSystemArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    postgres: PostgresArgs,
    /// Print a line for each partition
    #[arg(long)]
    partitions: bool,
}

/// Position of one consumer in one partition.
struct ConsumerPosition {
    consumer: String,
    topic: String,
    partition: i32,
    next_offset: i64,
    record_time: Option<OffsetDateTime>,
}

pub(super) async fn run(args: LagArgs) -> Result<()> {
    let kafka = args.local.kafka(&args.kafka)?;
    let pool = postgres::connect(&args.local.postgres(&args.postgres)?).context("DATABASE_URL")?;
    postgres::check_connection(&pool).await.map_err(anyhow::Error::msg)?;
    let rows: Vec<(String, String, i32, i64, Option<OffsetDateTime>)> = sqlx::query_as(
        "SELECT consumer, topic, partition, next_offset, record_time FROM consumer_positions
         ORDER BY consumer, topic, partition",
    )
    .fetch_all(&pool)
    .await
    .context("cannot read the positions")?;
    let position = |(consumer, topic, partition, next_offset, record_time)| ConsumerPosition {
        consumer,
        topic,
        partition,
        next_offset,
        record_time,
    };
    let mut positions: Vec<ConsumerPosition> = rows.into_iter().map(position).collect();
    // The position of an interrupted replay does not advance, so it has no lag.
    positions.retain(|position| position.consumer != REPLAY);
    let ends = log_ends(kafka, &positions).await?;
    let now = OffsetDateTime::now_utc();
    let lines: Vec<Value> =
        if args.partitions { by_partition(&positions, &ends, now) } else { by_topic(&positions, &ends, now) };
    let mut columns = vec![("CONSUMER", "/consumer"), ("TOPIC", "/topic")];
    if args.partitions {
        columns.extend([("PARTITION", "/partition"), ("NEXT", "/next_offset"), ("END", "/log_end")]);
    }
    columns.extend([("RECORDS", "/lag_records"), ("SECONDS AT MOST", "/lag_seconds_at_most")]);
    print::table(&lines, &columns)
}

async fn log_ends(kafka: KafkaConfig, positions: &[ConsumerPosition]) -> Result<BTreeMap<(String, i32), i64>> {
    let partitions: Vec<(String, i32)> =
        positions.iter().map(|position| (position.topic.clone(), position.partition)).collect();
    let query = tokio::task::spawn_blocking(move || {
        // Records of open transactions count as lag: consumers cannot read what is after them.
        let client: BaseConsumer = kafka.admin_client("lag").set("isolation.level", "read_uncommitted").create()?;
        let mut ends = BTreeMap::new();
        for (topic, partition) in partitions {
            if ends.contains_key(&(topic.clone(), partition)) {
                continue;
            }
            let (_, high) = client.fetch_watermarks(&topic, partition, TIMEOUT)?;
            ends.insert((topic, partition), high);
        }
        Ok::<_, rdkafka::error::KafkaError>(ends)
    });
    query.await?.context("Kafka does not answer; start it, or set KAFKA_BROKERS to its address")
}

/// Lag in records, and an upper bound in seconds: the time since the last applied record was accepted. After a quiet
/// hour the next record counts as an hour late until it is applied. `None`: no record was applied yet.
fn lag(position: &ConsumerPosition, ends: &BTreeMap<(String, i32), i64>, now: OffsetDateTime) -> (i64, Option<f64>) {
    let end = ends.get(&(position.topic.clone(), position.partition)).copied().unwrap_or(position.next_offset);
    let records = (end - position.next_offset).max(0);
    let seconds =
        if records == 0 { Some(0.0) } else { position.record_time.map(|time| (now - time).as_seconds_f64().max(0.0)) };
    (records, seconds)
}

fn by_partition(
    positions: &[ConsumerPosition],
    ends: &BTreeMap<(String, i32), i64>,
    now: OffsetDateTime,
) -> Vec<Value> {
    let line = |position: &ConsumerPosition| {
        let (records, seconds) = lag(position, ends, now);
        let end = ends.get(&(position.topic.clone(), position.partition));
        json!({
            "consumer": position.consumer, "topic": position.topic, "partition": position.partition,
            "next_offset": position.next_offset, "log_end": end, "lag_records": records,
            "lag_seconds_at_most": seconds,
        })
    };
    positions.iter().map(line).collect()
}

fn by_topic(positions: &[ConsumerPosition], ends: &BTreeMap<(String, i32), i64>, now: OffsetDateTime) -> Vec<Value> {
    let mut sums: BTreeMap<(&str, &str), (i64, Option<f64>)> = BTreeMap::new();
    for position in positions {
        let (records, seconds) = lag(position, ends, now);
        let sum = sums.entry((&position.consumer, &position.topic)).or_insert((0, Some(0.0)));
        sum.0 += records;
        // If one partition has no bound, the topic has none.
        sum.1 = sum.1.zip(seconds).map(|(most, more)| most.max(more));
    }
    let lines = sums.into_iter().map(|((consumer, topic), (records, seconds))| {
        json!({"consumer": consumer, "topic": topic, "lag_records": records, "lag_seconds_at_most": seconds})
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(partition: i32, next_offset: i64, seconds_ago: Option<i64>) -> ConsumerPosition {
        let record_time = seconds_ago.map(|seconds| OffsetDateTime::UNIX_EPOCH - time::Duration::seconds(seconds));
        ConsumerPosition { consumer: "c".to_owned(), topic: "t".to_owned(), partition, next_offset, record_time }
    }

    #[test]
    fn lag_of_a_topic_sums_records_and_takes_the_largest_bound() {
        let ends = (0..3).map(|partition| (("t".to_owned(), partition), 10)).collect();
        let of_topic = |positions: &[ConsumerPosition]| {
            let line = by_topic(positions, &ends, OffsetDateTime::UNIX_EPOCH).remove(0);
            (line["lag_records"].as_i64().unwrap(), line["lag_seconds_at_most"].as_f64())
        };
        let (read, behind) = (position(0, 10, Some(3600)), position(1, 7, Some(60)));
        assert_eq!(of_topic(&[position(0, 10, None)]), (0, Some(0.0)));
        assert_eq!(of_topic(&[read, behind]), (3, Some(60.0)));
        let (never_read, behind) = (position(0, 0, None), position(1, 7, Some(60)));
        assert_eq!(of_topic(&[never_read, behind]), (13, None));
    }
}
