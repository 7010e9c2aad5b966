//! Reads ranges of the log once, without a consumer group. Nothing is committed, and no consumer loses partitions.
//!
//! The caller chooses the ranges and processes the records.

mod remaining;
mod topic;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use tokio::sync::mpsc;

use self::remaining::Remaining;
use self::topic::{OpenPartitions, TopicReader};
use super::{KafkaConfig, Record, bounds, undecodable};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Chunks that wait in the channel; with librdkafka's own queue this bounds what is read ahead.
const CHANNEL_CHUNKS: usize = 4;

/// A range of offsets in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetRange {
    /// Full topic name.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// First offset.
    pub from: i64,
    /// First offset after the range.
    pub to: i64,
}

/// What to do when records of a range were deleted from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTruncation {
    /// Report it: without those records the others are of no use.
    Fail,
    /// Continue at the start of the log.
    Skip,
}

/// Why reading stopped early.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The client could not be created, or Kafka refused.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The log lost records before they were read.
    #[error("the log does not have all records of the range any more: they were deleted by retention or truncation")]
    Truncated,
    /// librdkafka cannot decode a batch.
    #[error("{topic}[{partition}]: the batch at offset {offset} cannot be decoded with these Kafka properties: {text}")]
    Undecodable {
        /// Full topic name.
        topic: Arc<str>,
        /// Partition.
        partition: i32,
        /// Next offset to read.
        offset: i64,
        /// librdkafka's error text.
        text: String,
    },
    /// No record came for a minute.
    #[error("nothing was read for a minute: {0}")]
    Stalled(String),
}

/// Start and end of every partition of `topic` now: (partition, offset of the first record, offset after the last
/// readable record).
///
/// # Errors
/// As Kafka reports them; also when the topic does not exist.
pub async fn bounds(kafka: &KafkaConfig, topic: &str) -> Result<Vec<(i32, i64, i64)>, KafkaError> {
    let (config, topic) = (client_config(kafka), topic.to_owned());
    blocking(move || {
        let client: BaseConsumer = config.create()?;
        let metadata = client.fetch_metadata(Some(&topic), REQUEST_TIMEOUT)?;
        if let Some(error) = metadata.topics().iter().find_map(|described| described.error()) {
            // A missing topic is reported, not treated as one without partitions.
            return Err(KafkaError::MetadataFetch(error.into()));
        }
        let partitions = metadata.topics().iter().flat_map(|described| described.partitions());
        let ids: Vec<i32> = partitions.map(|partition| partition.id()).collect();
        let answers = bounds::query(&client, &topic, &ids, REQUEST_TIMEOUT);
        answers.into_iter().map(|(partition, answer)| answer.map(|log| (partition, log.start, log.end))).collect()
    })
    .await
}

/// In each of these partitions, the offset of the first record that was appended at `time_ms` (milliseconds since the
/// Unix epoch) or later; the end of the log where there is none.
///
/// # Errors
/// As Kafka reports them.
pub async fn offsets_at(
    kafka: &KafkaConfig,
    topic: &str,
    partitions: Vec<i32>,
    time_ms: i64,
) -> Result<HashMap<i32, i64>, KafkaError> {
    let (config, topic) = (client_config(kafka), topic.to_owned());
    blocking(move || {
        let client: BaseConsumer = config.create()?;
        let answers = bounds::at(&client, &topic, partitions.into_iter(), time_ms, REQUEST_TIMEOUT);
        answers.into_iter().map(|(partition, offset)| Ok((partition, offset?))).collect()
    })
    .await
}

/// librdkafka's error text, if the batch at `offset` cannot be decoded with these Kafka properties.
///
/// # Errors
/// As Kafka reports them, and a timeout if no record comes in five seconds.
pub async fn undecodable_at(
    kafka: &KafkaConfig,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<Option<String>, KafkaError> {
    let (config, topic) = (client_config(kafka), topic.to_owned());
    blocking(move || undecodable::probe(&config, &topic, partition, offset)).await
}

/// Reads the ranges, at most one of each partition. The records of a partition come in their order; the channel closes
/// after the last record. Offsets in `skips` are not read. If the last offsets of a range are skipped or hold no record
/// (a transaction marker), the range ends with a marker, so that its end is reached. No range may reach past the last
/// stable offset.
///
/// # Errors
/// As Kafka reports them, when a client cannot be created. A later error comes through the channel, as the last item of
/// its topic.
pub fn read(
    kafka: &KafkaConfig,
    ranges: Vec<OffsetRange>,
    skips: &[OffsetRange],
    on_truncation: OnTruncation,
) -> Result<mpsc::Receiver<Result<Vec<Record>, ReadError>>, KafkaError> {
    let mut by_topic: BTreeMap<Arc<str>, OpenPartitions> = BTreeMap::new();
    for range in ranges.into_iter().filter(|range| range.from < range.to) {
        let same = skips.iter().filter(|skip| skip.topic == range.topic && skip.partition == range.partition);
        let remaining = Remaining::new((range.from, range.to), same.map(|skip| (skip.from, skip.to)));
        by_topic.entry(range.topic).or_default().insert(range.partition, remaining);
    }
    let (sender, receiver) = mpsc::channel(CHANNEL_CHUNKS);
    for (topic, open) in by_topic {
        // One client per topic: librdkafka reports the end of a partition without its topic.
        let config = client_config(kafka);
        let client: BaseConsumer = config.create()?;
        let sender = sender.clone();
        let panic_sender = sender.clone();
        let mut reader = TopicReader { client, config, topic, open, on_truncation };
        // Ends with the last record, or when the receiver is dropped.
        let reading = tokio::task::spawn_blocking(move || {
            if let Err(error) = reader.run(&sender) {
                let _nobody_waits = sender.blocking_send(Err(error));
            }
        });
        // Closing the channel alone would mean that everything was read.
        drop(tokio::spawn(async move {
            if let Err(panic) = reading.await {
                let _nobody_waits = panic_sender.send(Err(ReadError::Stalled(panic.to_string()))).await;
            }
        }));
    }
    Ok(receiver)
}

fn client_config(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = kafka.client("log-reader");
    config
        // librdkafka requires a group id for any assignment.
        .set("group.id", &kafka.topics.group_materializer)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("queued.min.messages", "20000")
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.wait.max.ms", "20");
    kafka.overlay(&mut config);
    config
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, KafkaError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(KafkaError::ClientCreation(error.to_string())))
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_end_from_a_lagging_replica_leaves_no_record_out() {
        let mock = MockCluster::new(2).unwrap();
        mock.create_topic("events", 1, 2).unwrap();
        mock.partition_leader("events", 0, Some(1)).unwrap();
        let mut kafka = KafkaConfig::new(mock.bootstrap_servers(), "");
        // The mock reports a replica's own end only to readers of uncommitted records.
        kafka.properties.push(("isolation.level".to_owned(), "read_uncommitted".to_owned()));
        let config = kafka.client("test");
        let publish = move || {
            let producer: BaseProducer = config.create().unwrap();
            for _ in 0..10 {
                producer
                    .send(BaseRecord::<str, str>::to("events").partition(0).payload("v"))
                    .map_err(|(error, _)| error)
                    .unwrap();
                producer.flush(REQUEST_TIMEOUT).unwrap();
            }
        };
        tokio::task::spawn_blocking(publish).await.unwrap();
        // The replica that serves the reads lags.
        mock.partition_follower("events", 0, 2).unwrap();
        mock.follower_watermarks("events", 0, Some(0), Some(5)).unwrap();
        let range = OffsetRange { topic: "events".into(), partition: 0, from: 0, to: 10 };
        let mut chunks = read(&kafka, vec![range], &[], OnTruncation::Fail).unwrap();
        let mut read = Vec::new();
        // The mock serves one record past that end, after it reported the end.
        while read.len() < 6 {
            read.extend(chunks.recv().await.unwrap().unwrap().iter().map(|record| (record.offset, record.is_marker)));
        }
        mock.follower_watermarks("events", 0, Some(0), Some(10)).unwrap();
        while let Some(records) = chunks.recv().await {
            read.extend(records.unwrap().iter().map(|record| (record.offset, record.is_marker)));
        }
        assert_eq!(read, (0..10).map(|offset| (offset, false)).collect::<Vec<_>>());
    }
}
