//! Reads the topic of dead letters, from its start to the end that it had when it was opened, and single rejected
//! records from their topics.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use kafka::log_reader::{self, OffsetRange, OnTruncation, ReadError};
use kafka::{KafkaConfig, Record};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use schemas::native::Origin;
use tokio::sync::mpsc;

use super::dead_letter::{DeadLetter, PartitionOffset};

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("there is no topic {0}; run: triggers topics apply")]
    NoTopic(String),
    #[error("Kafka did not answer: {0}")]
    Kafka(#[from] KafkaError),
}

/// The topic of dead letters, up to the end that it had when it was opened.
pub struct DeadLetterTopic {
    kafka: KafkaConfig,
    ranges: Vec<OffsetRange>,
}

/// Dead letters as they are read.
pub struct DeadLetterReader {
    reader: mpsc::Receiver<Result<Vec<Record>, ReadError>>,
    read: VecDeque<Record>,
}

impl DeadLetterReader {
    /// The next record: `Some(None)` if it is no dead letter, `None` at the end. Records of one partition come in
    /// offset order.
    ///
    /// # Errors
    /// When the topic cannot be read.
    pub async fn next(&mut self) -> Result<Option<Option<DeadLetter>>, ReadError> {
        loop {
            match self.read.pop_front() {
                Some(record) if record.is_marker => {}
                Some(record) => return Ok(Some(DeadLetter::read(record))),
                None => match self.reader.recv().await {
                    Some(records) => self.read.extend(records?),
                    None => return Ok(None),
                },
            }
        }
    }
}

impl DeadLetterTopic {
    /// Reads the start and end offsets of the topic.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(kafka: KafkaConfig) -> Result<Self, OpenError> {
        let topic = kafka.topics.dead_letters.as_str();
        let bounds = match log_reader::bounds(&kafka, topic).await {
            Ok(bounds) => bounds,
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)) => {
                return Err(OpenError::NoTopic(topic.to_owned()));
            }
            Err(error) => return Err(error.into()),
        };
        let topic: Arc<str> = Arc::from(topic);
        let range = |(partition, from, to)| OffsetRange { topic: topic.clone(), partition, from, to };
        Ok(Self { ranges: bounds.into_iter().map(range).collect(), kafka })
    }

    /// Full name of the topic.
    pub fn topic(&self) -> &str {
        &self.kafka.topics.dead_letters
    }

    /// Reads everything.
    ///
    /// # Errors
    /// When the client cannot be created.
    pub fn read_all(&self) -> Result<DeadLetterReader, ReadError> {
        self.read(self.ranges.clone())
    }

    /// Reads the smallest range of each partition that contains the wanted dead letters.
    ///
    /// # Errors
    /// When the client cannot be created.
    pub fn read_around(&self, wanted: impl Iterator<Item = PartitionOffset>) -> Result<DeadLetterReader, ReadError> {
        let mut around: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
        for (partition, offset) in wanted {
            let (from, to) = around.entry(partition).or_insert((offset, offset + 1));
            (*from, *to) = ((*from).min(offset), (*to).max(offset + 1));
        }
        let topic: Arc<str> = Arc::from(self.topic());
        let range = |(partition, (from, to))| OffsetRange { topic: topic.clone(), partition, from, to };
        self.read(around.into_iter().map(range).collect())
    }

    /// Dead letters that expire during the reading are skipped.
    fn read(&self, ranges: Vec<OffsetRange>) -> Result<DeadLetterReader, ReadError> {
        let reader = log_reader::read(&self.kafka, ranges, &[], OnTruncation::Skip)?;
        Ok(DeadLetterReader { reader, read: VecDeque::new() })
    }

    /// The rejected record itself, if the log still has it at the position that the dead letter names.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn record_at(&self, origin: &Origin) -> Result<Option<Record>, ReadError> {
        let bounds = match log_reader::bounds(&self.kafka, &origin.topic).await {
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)) => return Ok(None),
            bounds => bounds?,
        };
        let bounds = bounds.into_iter().find(|(partition, ..)| *partition == origin.partition);
        if !bounds.is_some_and(|(_, low, high)| (low..high).contains(&origin.offset)) {
            return Ok(None);
        }
        let topic: Arc<str> = Arc::from(origin.topic.as_str());
        let range = OffsetRange { topic, partition: origin.partition, from: origin.offset, to: origin.offset + 1 };
        let mut reader = log_reader::read(&self.kafka, vec![range], &[], OnTruncation::Skip)?;
        let mut found = None;
        while let Some(records) = reader.recv().await {
            found = records?.into_iter().find(|record| !record.is_marker).or(found);
        }
        // Another append time: the topic was recreated, and this is another record.
        Ok(found.filter(|record| record.offset == origin.offset && record.timestamp_ms == origin.timestamp_ms))
    }
}
