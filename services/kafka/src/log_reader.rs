//! Reading parts of the log without a group, from here to there. Nothing is committed, and nobody's partitions move.
//!
//! Where a reading stands and what is made of the records is its owner's business. Where logs begin and end is asked as
//! [`super::bounds`] does.

mod rest;
mod topic;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use tokio::sync::mpsc;

use self::rest::Rest;
use self::topic::{Open, TopicReader};
use super::{KafkaConfig, Record, bounds, undecodable};

const CALL: Duration = Duration::from_secs(10);
/// Chunks that wait; with librdkafka's own queue this bounds what is read ahead.
const CHANNEL_CHUNKS: usize = 4;

/// A part of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Full topic name.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// First offset.
    pub from: i64,
    /// First offset behind it.
    pub to: i64,
}

/// What to do when the log no longer holds what is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTruncation {
    /// Report it: the reading is worth nothing without those records.
    Fail,
    /// Go on where the log begins now.
    Skip,
}

/// Why a reading ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The client could not be made, or Kafka refuses.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The log lost records before they were read.
    #[error("the log does not hold what was to be read any more: it was truncated, or its retention is over")]
    Truncated,
    /// librdkafka cannot decode a batch.
    #[error("{topic}[{partition}]: the batch at offset {offset} does not decode with these Kafka properties: {text}")]
    Undecodable {
        /// Full topic name.
        topic: Arc<str>,
        /// Partition.
        partition: i32,
        /// Where reading stands.
        offset: i64,
        /// What librdkafka says.
        text: String,
    },
    /// Nothing came for a minute.
    #[error("nothing was read for a minute: {0}")]
    Stalled(String),
}

/// Begin and end of every partition of `topic` as they are now: (partition, first offset, first offset behind the
/// last).
///
/// # Errors
/// As Kafka reports them; also when the topic does not exist.
pub async fn bounds(kafka: &KafkaConfig, topic: &str) -> Result<Vec<(i32, i64, i64)>, KafkaError> {
    let (config, topic) = (client_config(kafka), topic.to_owned());
    blocking(move || {
        let client: BaseConsumer = config.create()?;
        let metadata = client.fetch_metadata(Some(&topic), CALL)?;
        if let Some(error) = metadata.topics().iter().find_map(|described| described.error()) {
            // A topic that is not there is not one without partitions.
            return Err(KafkaError::MetadataFetch(error.into()));
        }
        let partitions = metadata.topics().iter().flat_map(|described| described.partitions());
        let asked: Vec<i32> = partitions.map(|partition| partition.id()).collect();
        let answers = bounds::ask(&client, &topic, &asked, CALL);
        answers.into_iter().map(|(partition, answer)| answer.map(|log| (partition, log.begin, log.end))).collect()
    })
    .await
}

/// In each of these partitions the offset of the first record appended at `time_ms` (milliseconds since the Unix epoch)
/// or later; its end where there is none.
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
        let answers = bounds::at(&client, &topic, partitions.into_iter(), time_ms, CALL);
        answers.into_iter().map(|(partition, offset)| Ok((partition, offset?))).collect()
    })
    .await
}

/// What librdkafka says of the batch at `offset`, when it does not decode with these Kafka properties.
///
/// # Errors
/// As Kafka reports them, and a time-out when nothing comes in five seconds.
pub async fn undecodable_at(
    kafka: &KafkaConfig,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<Option<String>, KafkaError> {
    let (config, topic) = (client_config(kafka), topic.to_owned());
    blocking(move || undecodable::probe(&config, &topic, partition, offset)).await
}

/// Reads the spans, at most one of each partition, and hands their records over, those of a partition in their order;
/// the channel closes after the last. Nothing of `skips` is read. A span whose last offsets hold no record (the end of
/// a transaction) or are skipped ends with a marker, so that its end is reached. No span may reach beyond what a reader
/// of committed records sees.
///
/// # Errors
/// As Kafka reports them, when a client cannot be made. What is met later comes through the channel, as the last thing
/// of its topic.
pub fn read(
    kafka: &KafkaConfig,
    spans: Vec<Span>,
    skips: &[Span],
    on_truncation: OnTruncation,
) -> Result<mpsc::Receiver<Result<Vec<Record>, ReadError>>, KafkaError> {
    let mut by_topic: BTreeMap<Arc<str>, Open> = BTreeMap::new();
    for span in spans.into_iter().filter(|span| span.from < span.to) {
        let here = skips.iter().filter(|skip| skip.topic == span.topic && skip.partition == span.partition);
        let rest = Rest::new((span.from, span.to), here.map(|skip| (skip.from, skip.to)));
        by_topic.entry(span.topic).or_default().insert(span.partition, rest);
    }
    let (sender, receiver) = mpsc::channel(CHANNEL_CHUNKS);
    for (topic, open) in by_topic {
        // One client per topic: librdkafka reports the end of a partition without its topic.
        let config = client_config(kafka);
        let client: BaseConsumer = config.create()?;
        let sender = sender.clone();
        let panics = sender.clone();
        let mut reader = TopicReader { client, config, topic, open, on_truncation };
        // Ends with the last record, or when nobody takes them any more.
        let reading = tokio::task::spawn_blocking(move || {
            if let Err(error) = reader.run(&sender) {
                let _nobody_waits = sender.blocking_send(Err(error));
            }
        });
        // A channel that just closes would say that all was read.
        drop(tokio::spawn(async move {
            if let Err(panic) = reading.await {
                let _nobody_waits = panics.send(Err(ReadError::Stalled(panic.to_string()))).await;
            }
        }));
    }
    Ok(receiver)
}

fn client_config(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = kafka.client("log-reader");
    config
        // librdkafka wants a name for any assignment.
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
    async fn an_end_before_the_span_that_a_replica_tells_leaves_no_record_out() {
        let mock = MockCluster::new(2).unwrap();
        mock.create_topic("events", 1, 2).unwrap();
        mock.partition_leader("events", 0, Some(1)).unwrap();
        let mut kafka = KafkaConfig::new(mock.bootstrap_servers(), "");
        // The mocking has a replica's own end only for who reads everything.
        kafka.properties.push(("isolation.level".to_owned(), "read_uncommitted".to_owned()));
        let config = kafka.client("test");
        let publish = move || {
            let producer: BaseProducer = config.create().unwrap();
            for _ in 0..10 {
                producer
                    .send(BaseRecord::<str, str>::to("events").partition(0).payload("v"))
                    .map_err(|(error, _)| error)
                    .unwrap();
                producer.flush(CALL).unwrap();
            }
        };
        tokio::task::spawn_blocking(publish).await.unwrap();
        // The replica that is read is behind.
        mock.partition_follower("events", 0, 2).unwrap();
        mock.follower_watermarks("events", 0, Some(0), Some(5)).unwrap();
        let span = Span { topic: "events".into(), partition: 0, from: 0, to: 10 };
        let mut inflow = read(&kafka, vec![span], &[], OnTruncation::Fail).unwrap();
        let mut came = Vec::new();
        // One comes behind that end, after it was reported: so the mocking has it.
        while came.len() < 6 {
            came.extend(inflow.recv().await.unwrap().unwrap().iter().map(|record| (record.offset, record.is_marker)));
        }
        mock.follower_watermarks("events", 0, Some(0), Some(10)).unwrap();
        while let Some(records) = inflow.recv().await {
            came.extend(records.unwrap().iter().map(|record| (record.offset, record.is_marker)));
        }
        assert_eq!(came, (0..10).map(|offset| (offset, false)).collect::<Vec<_>>());
    }
}
