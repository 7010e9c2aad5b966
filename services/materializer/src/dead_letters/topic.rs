//! Reading the topic of dead letters, from its begin to the end that is found at the start, and one refused record at
//! its place.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use platform::kafka::log_reader::{self, OnTruncation, ReadError, Span};
use platform::kafka::{KafkaConfig, Record};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use schemas::native::Origin;
use tokio::sync::mpsc;

use super::letter::{At, Letter};

/// Why the dead letters cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The topic does not exist.
    #[error("there is no topic {0}; run: triggers topics apply")]
    NoTopic(String),
    /// Kafka does not answer.
    #[error("Kafka did not answer: {0}")]
    Kafka(#[from] KafkaError),
}

/// The topic of dead letters, as far as it reached at the start.
pub struct DeadLetters {
    kafka: KafkaConfig,
    spans: Vec<Span>,
}

/// Letters as they are read.
pub struct Letters {
    inflow: mpsc::Receiver<Result<Vec<Record>, ReadError>>,
    read: VecDeque<Record>,
}

impl Letters {
    /// The next one, or `None` inside in the place of a record that is no dead letter; those of a partition in their
    /// order. Nothing at the end.
    ///
    /// # Errors
    /// When the topic cannot be read.
    pub async fn next(&mut self) -> Result<Option<Option<Letter>>, ReadError> {
        loop {
            match self.read.pop_front() {
                Some(record) if record.is_marker => {}
                Some(record) => return Ok(Some(Letter::read(record))),
                None => match self.inflow.recv().await {
                    Some(records) => self.read.extend(records?),
                    None => return Ok(None),
                },
            }
        }
    }
}

impl DeadLetters {
    /// Finds out where the topic begins and ends.
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
        let span = |(partition, from, to)| Span { topic: topic.clone(), partition, from, to };
        Ok(Self { spans: bounds.into_iter().map(span).collect(), kafka })
    }

    /// Full name of the topic.
    pub fn topic(&self) -> &str {
        &self.kafka.topics.dead_letters
    }

    /// Reads everything.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn read_all(&self) -> Result<Letters, ReadError> {
        self.read(self.spans.clone())
    }

    /// Reads no more than is needed to meet these.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn read_around(&self, wanted: impl Iterator<Item = At>) -> Result<Letters, ReadError> {
        let mut around: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
        for (partition, offset) in wanted {
            let (from, to) = around.entry(partition).or_insert((offset, offset + 1));
            (*from, *to) = ((*from).min(offset), (*to).max(offset + 1));
        }
        let topic: Arc<str> = Arc::from(self.topic());
        let span = |(partition, (from, to))| Span { topic: topic.clone(), partition, from, to };
        self.read(around.into_iter().map(span).collect())
    }

    /// What expires while it is read is gone, which is no error here.
    fn read(&self, spans: Vec<Span>) -> Result<Letters, ReadError> {
        let inflow = log_reader::read(&self.kafka, spans, &[], OnTruncation::Skip)?;
        Ok(Letters { inflow, read: VecDeque::new() })
    }

    /// The record itself, if the log still has it where the dead letter says.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn record_at(&self, place: &Origin) -> Result<Option<Record>, ReadError> {
        let bounds = match log_reader::bounds(&self.kafka, &place.topic).await {
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)) => return Ok(None),
            bounds => bounds?,
        };
        let bounds = bounds.into_iter().find(|(partition, ..)| *partition == place.partition);
        if !bounds.is_some_and(|(_, begin, end)| (begin..end).contains(&place.offset)) {
            return Ok(None);
        }
        let topic: Arc<str> = Arc::from(place.topic.as_str());
        let span = Span { topic, partition: place.partition, from: place.offset, to: place.offset + 1 };
        let mut inflow = log_reader::read(&self.kafka, vec![span], &[], OnTruncation::Skip)?;
        let mut found = None;
        while let Some(records) = inflow.recv().await {
            found = records?.into_iter().find(|record| !record.is_marker).or(found);
        }
        // Another time: the topic was made anew, and this is another record.
        Ok(found.filter(|record| record.offset == place.offset && record.timestamp_ms == place.timestamp_ms))
    }
}
