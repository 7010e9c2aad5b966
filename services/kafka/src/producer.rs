//! The producer: idempotent, `acks=all`, bounded, and answering only with the delivery report.
//!
//! A record whose outcome is unknown is never produced again from here; whether the caller's client may retry is the
//! caller's business.

mod in_flight;
mod keep_warm;
mod series;
mod standing_queue;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, Producer as _};
use runtime::budget::{Budget, KeyedShares, Permit, Share};
use tokio::time::{Instant, timeout_at};
use tracing::{error, warn};

use super::{KafkaConfig, access};
use in_flight::PendingReport;
pub use series::Series;
use standing_queue::StandingQueue;

const MIB: u64 = 1024 * 1024;

/// Settings of the producer.
#[derive(Debug, Clone)]
pub struct ProducerSettings {
    /// How long a batch waits for further records, milliseconds.
    pub linger_ms: u32,
    /// From `publish` to the delivery report or [`PublishError::Unknown`].
    pub delivery_timeout: Duration,
    /// Records in flight in all; above it `publish` answers [`PublishError::Busy`].
    pub max_in_flight: usize,
    /// Records in flight per partition, so that a leaderless partition cannot use up the bound in all.
    pub max_in_flight_per_partition: usize,
    /// Bytes of records that librdkafka holds, in all; above it `publish` answers [`PublishError::Busy`].
    pub max_in_flight_bytes: u64,
    /// The part of them that records of one key, which is an organization, may have.
    pub max_in_flight_bytes_per_key: u64,
    /// How long records may wait for their reports when they do so all the time: see [`Producer::is_overloaded`].
    pub max_standing_wait: Duration,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        Self {
            linger_ms: 2,
            delivery_timeout: Duration::from_secs(5),
            max_in_flight: 20_000,
            max_in_flight_per_partition: 10_000,
            max_in_flight_bytes: 256 * MIB,
            max_in_flight_bytes_per_key: 256 * MIB,
            max_standing_wait: Duration::from_millis(500),
        }
    }
}

/// A record to append. The partition follows from the key.
#[derive(Debug, Clone, Copy)]
pub struct ProducerRecord<'a> {
    /// Full topic name.
    pub topic: &'a str,
    /// The organization's id as text, or a dead letter's original key.
    pub key: Option<&'a [u8]>,
    /// Value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers in their order.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// Where a record was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Partition.
    pub partition: i32,
    /// Offset; negative when Kafka did not say, which happens to a batch that it was sent twice.
    pub offset: i64,
    /// The broker's append time, milliseconds since the Unix epoch; `None` when the broker did not say.
    pub timestamp_ms: Option<i64>,
}

/// Why a record was not, or may not have been, appended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// A bound is reached. Nothing was sent; try again shortly.
    #[error("too many records are in flight")]
    Busy,
    /// No answer in time. The record may have been stored.
    #[error("Kafka did not answer in time: {0}")]
    Unknown(String),
    /// The broker refuses this record for good (too large, not allowed).
    #[error("Kafka refused the record: {0}")]
    Rejected(String),
    /// Nothing was stored; try again later.
    #[error("Kafka did not take the record: {0}")]
    Failed(String),
}

/// Appends records. Cloning shares it.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

struct Shared {
    config: KafkaConfig,
    settings: ProducerSettings,
    /// Replaced after a fatal error, and when a topic was created again.
    current: RwLock<Arc<FutureProducer>>,
    /// In all, and for each partition.
    records: Budget,
    bytes_by_key: KeyedShares<Box<[u8]>>,
    queue: StandingQueue,
    /// Read at every record, written when partitions are learned.
    partitions: RwLock<HashMap<String, TopicBounds>>,
}

/// Bounds per partition of one topic; made when the topic is first written.
struct TopicBounds {
    partitions: Vec<Share>,
}

/// A record that was handed to the producer. Dropping it does not take the record back.
pub struct Submitted<'a> {
    owner: &'a Producer,
    producer: Arc<FutureProducer>,
    report: PendingReport,
    submitted_at: Instant,
    /// librdkafka looks for timed-out records once a second only; the budget is kept here.
    deadline: Instant,
    _place: Permit,
}

impl Submitted<'_> {
    /// When it was handed over.
    pub fn submitted_at(&self) -> std::time::Instant {
        self.submitted_at.into_std()
    }

    /// Waits for the delivery report. It may be dropped and called again until it returns.
    ///
    /// # Errors
    /// As [`Producer::publish`].
    pub async fn report(&mut self) -> Result<Appended, PublishError> {
        // Of many records that are confirmed together only the first one needs a timer.
        let received = match self.report.received().now_or_never() {
            Some(received) => Ok(received),
            None => timeout_at(self.deadline, self.report.received()).await,
        };
        match received {
            Ok(Some(Ok(delivery))) => {
                self.owner.shared.queue.confirm();
                let timestamp_ms = delivery.timestamp.to_millis();
                Ok(Appended { partition: delivery.partition, offset: delivery.offset, timestamp_ms })
            }
            Ok(Some(Err((error, _message)))) => Err(self.owner.classify(&self.producer, &error)),
            Ok(None) => Err(PublishError::Unknown("the producer was closed".to_owned())),
            Err(_elapsed) => Err(PublishError::Unknown("no delivery report within the budget".to_owned())),
        }
    }
}

impl Producer {
    /// Makes the producer. It connects in the background: a cluster that is down shows when publishing.
    ///
    /// # Errors
    /// When a configured property does not exist or contradicts another.
    pub fn new(config: &KafkaConfig, settings: ProducerSettings) -> Result<Self, KafkaError> {
        let current = create(config, &settings)?;
        let (max_in_all, max_per_partition) = (settings.max_in_flight, settings.max_in_flight_per_partition);
        let records = Budget::new("kafka_in_flight_records", max_in_all as u64, max_per_partition as u64);
        let (max_bytes, max_bytes_per_key) = (settings.max_in_flight_bytes, settings.max_in_flight_bytes_per_key);
        let bytes = Budget::new("kafka_in_flight_bytes", max_bytes, max_bytes_per_key);
        let queue = StandingQueue::new(settings.max_standing_wait, std::time::Instant::now());
        let shared = Shared {
            config: config.clone(),
            settings,
            current: RwLock::new(Arc::new(current)),
            records,
            bytes_by_key: KeyedShares::new(bytes),
            queue,
            partitions: RwLock::new(HashMap::new()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The same producer, never closed: for one that lives as long as its process. Closing one waits for librdkafka's
    /// threads, which wait by the clock on the wall: a process that has stopped in order would hang for as long as that
    /// clock was set back.
    #[must_use]
    pub fn kept_open(self) -> Self {
        std::mem::forget(self.shared.clone());
        self
    }

    /// Learns how many partitions `topic` has, so that its records are bounded per partition too, and warms the
    /// connection: the first record otherwise pays for both. Blocks on the network, so it runs on a blocking thread;
    /// call it at start and when partitions were added.
    ///
    /// # Errors
    /// When the cluster does not answer within `deadline`, or has no such topic.
    pub async fn warm(&self, topic: &str, deadline: Duration) -> Result<i32, PublishError> {
        let (producer, name) = (self.producer(), topic.to_owned());
        let failed = |error: String| PublishError::Failed(error);
        let count = tokio::task::spawn_blocking(move || {
            let metadata = producer.client().fetch_metadata(Some(&name), deadline).map_err(|e| e.to_string())?;
            let described = metadata.topics().first();
            let count = described.map_or(0, |topic| topic.partitions().len());
            let error = described.and_then(|topic| topic.error());
            if count == 0 { Err(access::reason_of(&name, error)) } else { Ok(count) }
        })
        .await
        .map_err(|e| failed(e.to_string()))?
        .map_err(failed)?;
        let mut topics = self.shared.partitions.write().unwrap_or_else(PoisonError::into_inner);
        let bounds = topics.entry(topic.to_owned()).or_insert_with(|| TopicBounds { partitions: Vec::new() });
        // Grown, never replaced: permits that are out belong to the shares that gave them.
        bounds.partitions.resize_with(count.max(bounds.partitions.len()), || self.shared.records.share());
        Ok(i32::try_from(count).unwrap_or(i32::MAX))
    }

    /// Whether more records come than Kafka confirms, so that they queue, and the queue is as long as it may be: a
    /// further record would wait longer than [`ProducerSettings::max_standing_wait`]. A queue that a pause leaves
    /// behind for half a second does not count.
    pub fn is_overloaded(&self) -> bool {
        self.shared.queue.is_too_long(self.shared.records.held(), std::time::Instant::now())
    }

    /// From `publish` to its answer, at most.
    pub fn delivery_timeout(&self) -> Duration {
        self.shared.settings.delivery_timeout
    }

    /// Appends the record and waits for the delivery report. Dropping the future does not take the record back.
    ///
    /// # Errors
    /// See [`PublishError`]; each kind says whether the record may have been stored.
    pub async fn publish(&self, record: ProducerRecord<'_>) -> Result<Appended, PublishError> {
        self.submit(&record)?.report().await
    }

    /// Hands the record to the producer without waiting.
    ///
    /// # Errors
    /// [`PublishError`]: nothing was sent.
    pub fn submit(&self, record: &ProducerRecord<'_>) -> Result<Submitted<'_>, PublishError> {
        self.series(record.topic, record.key, record.headers).submit_only(record.value)
    }

    /// Waits until everything in flight has its report, at most `deadline`. Blocking work, done on a blocking thread.
    pub async fn flush(&self, deadline: Duration) {
        let producer = self.producer();
        let flushed = tokio::task::spawn_blocking(move || producer.flush(deadline)).await;
        match flushed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "Records were still in flight when the producer was flushed."),
            Err(error) => warn!(%error, "Flushing the producer failed."),
        }
    }

    fn producer(&self) -> Arc<FutureProducer> {
        self.shared.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn classify(&self, producer: &Arc<FutureProducer>, error: &KafkaError) -> PublishError {
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::Fatal) || producer.client().fatal_error().is_some() {
            self.replace_failed(producer);
        }
        let text = if access::is_refused(error) { access::refusal("the topic") } else { error.to_string() };
        match code {
            Some(
                RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::PolicyViolation,
            ) => PublishError::Rejected(text),
            // Refused before it was ever queued.
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => PublishError::Failed(text),
            // Timed out, purged, fatal: it may be on the log.
            _ => PublishError::Unknown(text),
        }
    }

    /// Replaces a producer that failed for good: a fatal idempotent producer never works again.
    fn replace_failed(&self, failed: &Arc<FutureProducer>) {
        let reason = failed.client().fatal_error().map(|(code, text)| format!("{code}: {text}"));
        self.replace(failed, &format!("it failed for good: {}", reason.unwrap_or_default()));
    }

    /// Replaces this producer, if it is still the current one: a second caller finds it replaced. Records that were
    /// handed to it keep it until their reports. `false`: there is no new one, and the caller may try again.
    fn replace(&self, replaced: &Arc<FutureProducer>, reason: &str) -> bool {
        let mut current = self.shared.current.write().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&current, replaced) {
            return true;
        }
        match create(&self.shared.config, &self.shared.settings) {
            Ok(producer) => {
                *current = Arc::new(producer);
                warn!(reason, "Kafka producer was replaced.");
                true
            }
            Err(error) => {
                error!(reason, %error, "Kafka producer could not be replaced; trying again.");
                false
            }
        }
    }
}

fn create(config: &KafkaConfig, settings: &ProducerSettings) -> Result<FutureProducer, KafkaError> {
    let mut client = config.client("producer");
    client
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", settings.linger_ms.to_string())
        .set("message.timeout.ms", settings.delivery_timeout.as_millis().to_string())
        // Twice `max_in_flight`, so that this bound is never the one that refuses: librdkafka counts a record until a
        // moment after its report was delivered, and one that timed out for up to a second longer.
        .set("queue.buffering.max.messages", settings.max_in_flight.saturating_mul(2).to_string())
        // The topics are zstd: brokers would compress each batch again that is not. Level 1 costs the producer least.
        .set("compression.type", "zstd")
        .set("compression.level", "1")
        // The largest event is 256 KiB of payload; an ack or an attempt is far smaller.
        .set("message.max.bytes", "2000000")
        .set("sticky.partitioning.linger.ms", "0");
    config.overlay(&mut client);
    client.create()
}
