//! `triggers lag`: how far each consumer is behind the log, in records, and for how many seconds at most.

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
use crate::local::LocalArgs;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Flags of `triggers lag`.
#[derive(Args)]
pub(crate) struct LagArgs {
    #[command(flatten)]
    local: LocalArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    postgres: PostgresArgs,
    /// A line per partition
    #[arg(long)]
    partitions: bool,
}

/// One consumer's place in one partition.
struct Place {
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
        "SELECT consumer, topic, partition, next_offset, record_time FROM consumer_positions ORDER BY consumer, topic, partition",
    )
    .fetch_all(&pool)
    .await
    .context("the positions could not be read")?;
    let place = |(consumer, topic, partition, next_offset, record_time)| Place {
        consumer,
        topic,
        partition,
        next_offset,
        record_time,
    };
    let mut places: Vec<Place> = rows.into_iter().map(place).collect();
    // Of a replay that was interrupted nothing is behind.
    places.retain(|place| place.consumer != REPLAY);
    let ends = log_ends(kafka, &places).await?;
    let now = OffsetDateTime::now_utc();
    let lines: Vec<Value> =
        if args.partitions { by_partition(&places, &ends, now) } else { by_topic(&places, &ends, now) };
    let mut columns = vec![("CONSUMER", "/consumer"), ("TOPIC", "/topic")];
    if args.partitions {
        columns.extend([("PARTITION", "/partition"), ("NEXT", "/next_offset"), ("END", "/log_end")]);
    }
    columns.extend([("RECORDS", "/lag_records"), ("SECONDS AT MOST", "/lag_seconds_at_most")]);
    print::table(&lines, &columns)
}

async fn log_ends(kafka: KafkaConfig, places: &[Place]) -> Result<BTreeMap<(String, i32), i64>> {
    let wanted: Vec<(String, i32)> = places.iter().map(|place| (place.topic.clone(), place.partition)).collect();
    let read = tokio::task::spawn_blocking(move || {
        // With what open transactions hold back: to who waits for it, that is behind too.
        let client: BaseConsumer = kafka.admin_client("lag").set("isolation.level", "read_uncommitted").create()?;
        let mut ends = BTreeMap::new();
        for (topic, partition) in wanted {
            if ends.contains_key(&(topic.clone(), partition)) {
                continue;
            }
            let (_, high) = client.fetch_watermarks(&topic, partition, TIMEOUT)?;
            ends.insert((topic, partition), high);
        }
        Ok::<_, rdkafka::error::KafkaError>(ends)
    });
    read.await?.context("Kafka did not answer")
}

/// Records behind, and an upper bound of the seconds that the oldest of them has waited: since the last record that was
/// passed. After a quiet hour the next record counts as an hour late until it is passed. None: no record was ever
/// passed.
fn lag(place: &Place, ends: &BTreeMap<(String, i32), i64>, now: OffsetDateTime) -> (i64, Option<f64>) {
    let end = ends.get(&(place.topic.clone(), place.partition)).copied().unwrap_or(place.next_offset);
    let records = (end - place.next_offset).max(0);
    let seconds =
        if records == 0 { Some(0.0) } else { place.record_time.map(|time| (now - time).as_seconds_f64().max(0.0)) };
    (records, seconds)
}

fn by_partition(places: &[Place], ends: &BTreeMap<(String, i32), i64>, now: OffsetDateTime) -> Vec<Value> {
    let line = |place: &Place| {
        let (records, seconds) = lag(place, ends, now);
        let end = ends.get(&(place.topic.clone(), place.partition));
        json!({"consumer": place.consumer, "topic": place.topic, "partition": place.partition, "next_offset": place.next_offset,
               "log_end": end, "lag_records": records, "lag_seconds_at_most": seconds})
    };
    places.iter().map(line).collect()
}

fn by_topic(places: &[Place], ends: &BTreeMap<(String, i32), i64>, now: OffsetDateTime) -> Vec<Value> {
    let mut sums: BTreeMap<(&str, &str), (i64, Option<f64>)> = BTreeMap::new();
    for place in places {
        let (records, seconds) = lag(place, ends, now);
        let sum = sums.entry((&place.consumer, &place.topic)).or_insert((0, Some(0.0)));
        sum.0 += records;
        // Without one partition's bound there is none for the topic.
        sum.1 = sum.1.zip(seconds).map(|(most, more)| most.max(more));
    }
    let line = |((consumer, topic), (records, seconds)): (&(&str, &str), &(i64, Option<f64>))| json!({"consumer": consumer, "topic": topic, "lag_records": records, "lag_seconds_at_most": seconds});
    sums.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(partition: i32, next_offset: i64, seconds_ago: Option<i64>) -> Place {
        let record_time = seconds_ago.map(|seconds| OffsetDateTime::UNIX_EPOCH - time::Duration::seconds(seconds));
        Place { consumer: "c".to_owned(), topic: "t".to_owned(), partition, next_offset, record_time }
    }

    #[test]
    fn a_topics_lag_is_the_sum_of_records_and_a_bound_that_holds_for_each_partition() {
        let ends = (0..3).map(|partition| (("t".to_owned(), partition), 10)).collect();
        let of_topic = |places: &[Place]| {
            let line = by_topic(places, &ends, OffsetDateTime::UNIX_EPOCH).remove(0);
            (line["lag_records"].as_i64().unwrap(), line["lag_seconds_at_most"].as_f64())
        };
        let (read, behind) = (place(0, 10, Some(3600)), place(1, 7, Some(60)));
        assert_eq!(of_topic(&[place(0, 10, None)]), (0, Some(0.0)));
        assert_eq!(of_topic(&[read, behind]), (3, Some(60.0)));
        let (never_read, behind) = (place(0, 0, None), place(1, 7, Some(60)));
        assert_eq!(of_topic(&[never_read, behind]), (13, None));
    }
}
