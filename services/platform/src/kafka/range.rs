//! Reading parts of the log without a group, from here to there: for a rebuild and a replay. Nothing is committed, and
//! nobody's partitions move.
//!
//! Where a reading stands and what is made of the records is its owner's business.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tracing::warn;

use super::{KafkaConfig, Record, unpackable};

const CALL: Duration = Duration::from_secs(10);
/// Without any progress for so long, reading has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a batch that cannot be unpacked may be all that comes, before it is passed.
const UNPACKABLE_PATIENCE: Duration = Duration::from_secs(2);
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// Records that are handed over at once.
const CHUNK_RECORDS: usize = 500;
/// Their bytes; one record may be larger.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
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

/// Why a reading ended early.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// The client could not be made, or Kafka refuses.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The log lost records before they were read.
    #[error("the log does not hold what was to be read any more: it was truncated, or its retention is over")]
    Truncated,
    /// Nothing came for a minute.
    #[error("nothing was read for a minute: {0}")]
    Stalled(String),
}

/// Begin and end of every partition of `topic` as they are now: (partition, first offset, first offset behind the
/// last).
///
/// # Errors
/// As Kafka has them.
pub async fn bounds(kafka: &KafkaConfig, topic: &str) -> Result<Vec<(i32, i64, i64)>, KafkaError> {
    let (config, topic) = (client_config(kafka), topic.to_owned());
    blocking(move || {
        let client: BaseConsumer = config.create()?;
        let metadata = client.fetch_metadata(Some(&topic), CALL)?;
        if let Some(error) = metadata.topics().iter().find_map(|described| described.error()) {
            // A topic that is not there is not one without partitions.
            return Err(KafkaError::MetadataFetch(error.into()));
        }
        let partitions =
            metadata.topics().iter().flat_map(|described| described.partitions()).map(|partition| partition.id());
        let bounds =
            |partition| client.fetch_watermarks(&topic, partition, CALL).map(|(low, high)| (partition, low, high));
        partitions.map(bounds).collect()
    })
    .await
}

/// In each of these partitions the offset of the first record appended at `time_ms` (milliseconds since the Unix epoch)
/// or later; its end where there is none.
///
/// # Errors
/// As Kafka has them.
pub async fn offsets_at(
    kafka: &KafkaConfig,
    topic: &str,
    partitions: Vec<i32>,
    time_ms: i64,
) -> Result<HashMap<i32, i64>, KafkaError> {
    let (config, topic) = (client_config(kafka), topic.to_owned());
    blocking(move || {
        let client: BaseConsumer = config.create()?;
        let mut asked = TopicPartitionList::new();
        for partition in &partitions {
            asked.add_partition_offset(&topic, *partition, Offset::Offset(time_ms))?;
        }
        let mut found = HashMap::new();
        for element in client.offsets_for_times(asked, CALL)?.elements() {
            let offset = match element.offset() {
                Offset::Offset(offset) => offset,
                _ => client.fetch_watermarks(&topic, element.partition(), CALL)?.1,
            };
            found.insert(element.partition(), offset);
        }
        Ok(found)
    })
    .await
}

/// Reads the spans and hands their records over, those of a partition in their order; the channel closes after the
/// last. A span whose last offsets hold no record (the end of a transaction) ends with a marker, so that its end is
/// reached. No span may reach beyond what a reader of committed records sees.
///
/// # Errors
/// As Kafka has them, when a client cannot be made. What is met later comes through the channel, as the last thing of
/// its topic.
pub fn read(
    kafka: &KafkaConfig,
    spans: Vec<Span>,
) -> Result<mpsc::Receiver<Result<Vec<Record>, RangeError>>, KafkaError> {
    let mut by_topic: BTreeMap<Arc<str>, Open> = BTreeMap::new();
    for span in spans.into_iter().filter(|span| span.from < span.to) {
        by_topic.entry(span.topic).or_default().insert(span.partition, (span.from, span.to));
    }
    let (sender, receiver) = mpsc::channel(CHANNEL_CHUNKS);
    for (topic, open) in by_topic {
        // One client per topic: librdkafka tells the end of a partition without its topic.
        let config = client_config(kafka);
        let client: BaseConsumer = config.create()?;
        let sender = sender.clone();
        let teller = sender.clone();
        // Ends with the last record, or when nobody takes them any more.
        let reading = tokio::task::spawn_blocking(move || {
            if let Err(error) = read_topic(&client, &config, &topic, open, &sender) {
                let _nobody_waits = sender.blocking_send(Err(error));
            }
        });
        // A channel that just closes would say that all was read.
        drop(tokio::spawn(async move {
            if let Err(panic) = reading.await {
                let _nobody_waits = teller.send(Err(RangeError::Stalled(panic.to_string()))).await;
            }
        }));
    }
    Ok(receiver)
}

fn client_config(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = kafka.client("range");
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

/// Where each span of a topic stands that is not read to its end: partition -> (next offset, end).
type Open = HashMap<i32, (i64, i64)>;

fn read_topic(
    client: &BaseConsumer,
    config: &ClientConfig,
    topic: &Arc<str>,
    mut open: Open,
    sender: &mpsc::Sender<Result<Vec<Record>, RangeError>>,
) -> Result<(), RangeError> {
    assign(client, topic, &open)?;
    let mut last_progress = Instant::now();
    let mut is_stuck = false;
    let mut trouble = String::from("no answer");
    while !open.is_empty() {
        let (mut records, met) = poll_chunk(client, topic, &mut open);
        match met {
            None => {}
            Some(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => {
                return Err(RangeError::Truncated);
            }
            Some(error @ KafkaError::MessageConsumptionFatal(_)) => return Err(error.into()),
            // Brokers away, leader moving: librdkafka goes on by itself, up to our patience.
            Some(error) => {
                is_stuck |= unpackable::is_unpackable(&error);
                trouble = error.to_string();
            }
        }
        if records.is_empty() && is_stuck && last_progress.elapsed() > UNPACKABLE_PATIENCE {
            is_stuck = false;
            records = pass_unpackable(config, topic, &mut open);
            assign(client, topic, &open)?;
        }
        if records.is_empty() {
            if sender.is_closed() {
                return Ok(());
            }
            if last_progress.elapsed() > PATIENCE {
                return Err(RangeError::Stalled(trouble));
            }
        } else {
            if sender.blocking_send(Ok(records)).is_err() {
                return Ok(());
            }
            // The owner may have taken its time.
            last_progress = Instant::now();
        }
    }
    Ok(())
}

fn assign(client: &BaseConsumer, topic: &str, open: &Open) -> Result<(), KafkaError> {
    let mut assignment = TopicPartitionList::new();
    for (partition, (from, _)) in open {
        assignment.add_partition_offset(topic, *partition, Offset::Offset(*from))?;
    }
    client.assign(&assignment)
}

/// What stands for the batches that cannot be unpacked where the spans stand; a span that ends with one is closed.
fn pass_unpackable(config: &ClientConfig, topic: &Arc<str>, open: &mut Open) -> Vec<Record> {
    let mut passed = Vec::new();
    open.retain(|partition, (next, to)| {
        match unpackable::look(config, topic, *partition, *next, *to) {
            Ok(Some(batch)) => {
                *next = batch.next;
                passed.push(Record::unpackable(topic.clone(), *partition, batch));
            }
            Ok(None) => {}
            Err(error) => warn!(%topic, partition, %error, "Whether a batch can be unpacked is not known."),
        }
        *next < *to
    });
    passed
}

/// The next offset of a partition; `None`: nothing of it came, neither a record nor the end of a transaction.
fn stands_at(client: &BaseConsumer, topic: &str, partition: i32) -> Option<i64> {
    match client.position().ok()?.find_partition(topic, partition)?.offset() {
        Offset::Offset(next) => Some(next),
        _ => None,
    }
}

/// What is there, up to a chunk, and the error that it ended with. A partition whose span was passed is closed.
fn poll_chunk(client: &BaseConsumer, topic: &Arc<str>, open: &mut Open) -> (Vec<Record>, Option<KafkaError>) {
    let mut records = Vec::new();
    let mut bytes = 0;
    let mut timeout = POLL_TIMEOUT;
    while records.len() < CHUNK_RECORDS && bytes < CHUNK_BYTES && !open.is_empty() {
        match client.poll(timeout) {
            None => break,
            Some(Ok(message)) => {
                let partition = message.partition();
                if let Some((next, to)) = open.get_mut(&partition) {
                    let to = *to;
                    *next = message.offset() + 1;
                    let is_passed = *next >= to;
                    // Whatever lies before a record beyond the span is no record.
                    let is_within = message.offset() < to;
                    let record = if is_within {
                        Record::copy_of(&message, topic)
                    } else {
                        Record::marker(topic.clone(), partition, to - 1)
                    };
                    bytes += record.size();
                    records.push(record);
                    if is_passed {
                        open.remove(&partition);
                    }
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                // A leader that is new, or a replica that is read instead, may end before the span: its records come
                // later. What was passed without a record has moved the client, so only where it stands tells that
                // nothing is left.
                if let Some((_, to)) = open.get(&partition).copied()
                    && stands_at(client, topic, partition).is_some_and(|next| next >= to)
                {
                    open.remove(&partition);
                    records.push(Record::marker(topic.clone(), partition, to - 1));
                }
            }
            Some(Err(error)) => return (records, Some(error)),
        }
        timeout = Duration::ZERO;
    }
    (records, None)
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
        let mut inflow = read(&kafka, vec![Span { topic: "events".into(), partition: 0, from: 0, to: 10 }]).unwrap();
        let mut came = Vec::new();
        // One comes behind that end, after it was told: so the mocking has it.
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
