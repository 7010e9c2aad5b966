//! Reading topics without a group: the dead letters from their begin to the end that is found at the start, and one
//! record at its place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use platform::kafka::{KafkaConfig, Record};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use schemas::native::Origin;
use tokio::sync::mpsc;

use super::letter::{At, Letter};

const CALL: Duration = Duration::from_secs(10);
/// Without any record for so long, reading has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Letters that are read ahead; with librdkafka's own queue this bounds the memory.
const READ_AHEAD: usize = 16;

/// The part of a partition that is read: from the first offset to before the second.
type Span = (i64, i64);

/// The topic of dead letters, as far as it reached at the start.
pub struct DeadLetters {
    kafka: KafkaConfig,
    spans: BTreeMap<i32, Span>,
}

/// Letters as they are read; `None` in the place of a record that is no dead letter.
pub struct Letters(mpsc::Receiver<Result<Option<Letter>>>);

impl Letters {
    /// The next one; those of a partition in their order. Nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Option<Letter>>> {
        self.0.recv().await.transpose()
    }
}

impl DeadLetters {
    /// Finds out where the topic begins and ends.
    pub async fn open(kafka: KafkaConfig) -> Result<Self> {
        let (config, topic) = (reading(&kafka), kafka.topics.dead_letters.clone());
        let spans =
            tokio::task::spawn_blocking(move || spans_of(&config, &topic)).await?.context("Kafka did not answer")?;
        if spans.is_empty() {
            bail!("there is no topic {}; run: triggers topics apply", kafka.topics.dead_letters);
        }
        Ok(Self { kafka, spans })
    }

    /// Full name of the topic.
    pub fn topic(&self) -> &str {
        &self.kafka.topics.dead_letters
    }

    /// Reads everything.
    pub fn read_all(&self) -> Letters {
        self.read(self.spans.clone())
    }

    /// Reads no more than is needed to meet these.
    pub fn read_around(&self, wanted: impl Iterator<Item = At>) -> Letters {
        let mut spans: BTreeMap<i32, Span> = BTreeMap::new();
        for (partition, offset) in wanted {
            let span = spans.entry(partition).or_insert((offset, offset + 1));
            *span = (span.0.min(offset), span.1.max(offset + 1));
        }
        self.read(spans)
    }

    fn read(&self, spans: BTreeMap<i32, Span>) -> Letters {
        let (sender, letters) = mpsc::channel(READ_AHEAD);
        let (config, topic) = (reading(&self.kafka), self.kafka.topics.dead_letters.clone());
        // Ends with the last letter, or when nobody takes them any more.
        drop(tokio::task::spawn_blocking(move || {
            let take = |record| sender.blocking_send(Ok(Letter::read(record))).is_ok();
            if let Err(error) = read(&config, &topic, spans, take) {
                let _nobody_waits = sender.blocking_send(Err(error));
            }
        }));
        Letters(letters)
    }

    /// The record itself, if the log still has it where the dead letter says.
    pub async fn record_at(&self, place: &Origin) -> Result<Option<Record>> {
        let (config, place) = (reading(&self.kafka), place.clone());
        let found = tokio::task::spawn_blocking(move || {
            let spans = spans_of(&config, &place.topic).unwrap_or_default();
            let Some((begin, end)) = spans.get(&place.partition).copied() else { return Ok(None) };
            if !(begin..end).contains(&place.offset) {
                return Ok(None);
            }
            let mut found = None;
            let span = BTreeMap::from([(place.partition, (place.offset, place.offset + 1))]);
            read(&config, &place.topic, span, |record| {
                found = Some(record);
                true
            })?;
            // Another time: the topic was made anew, and this is another record.
            Ok(found
                .filter(|record: &Record| record.offset == place.offset && record.timestamp_ms == place.timestamp_ms))
        });
        found.await?
    }
}

/// A client that reads from where it is told, joins no group and commits nothing.
fn reading(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = kafka.admin_client("dlq");
    config
        // librdkafka wants a name for any assignment.
        .set("group.id", "triggers.dlq")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // What expires while it is read is gone, which is no error here.
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.wait.max.ms", "50");
    config
}

fn spans_of(config: &ClientConfig, topic: &str) -> Result<BTreeMap<i32, Span>, KafkaError> {
    let client: BaseConsumer = config.create()?;
    let metadata = client.fetch_metadata(Some(topic), CALL)?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id());
    partitions.map(|partition| Ok((partition, client.fetch_watermarks(topic, partition, CALL)?))).collect()
}

/// Reads the spans of `topic` and hands over each record, until `take` says that nobody wants more.
fn read(
    config: &ClientConfig,
    topic: &str,
    mut open: BTreeMap<i32, Span>,
    mut take: impl FnMut(Record) -> bool,
) -> Result<()> {
    open.retain(|_, (from, to)| from < to);
    let client: BaseConsumer = config.create()?;
    let mut assignment = TopicPartitionList::new();
    for (partition, (from, _)) in &open {
        assignment.add_partition_offset(topic, *partition, Offset::Offset(*from))?;
    }
    client.assign(&assignment)?;
    let name: Arc<str> = Arc::from(topic);
    let mut last = Instant::now();
    let mut trouble: Option<KafkaError> = None;
    while !open.is_empty() {
        match client.poll(Duration::from_millis(200)) {
            None if last.elapsed() > PATIENCE => {
                let why = trouble.map_or_else(|| "nothing came".to_owned(), |error| error.to_string());
                bail!("{topic} cannot be read: {why}");
            }
            None => {}
            Some(Ok(message)) => {
                last = Instant::now();
                let (partition, offset) = (message.partition(), message.offset());
                let Some((_, to)) = open.get(&partition).copied() else { continue };
                if offset < to && !take(Record::copy_of(&message, &name)) {
                    return Ok(());
                }
                if offset + 1 >= to {
                    open.remove(&partition);
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
            // Brokers away, leader moving: librdkafka goes on by itself, up to our patience.
            Some(Err(error)) => trouble = Some(error),
        }
    }
    Ok(())
}
