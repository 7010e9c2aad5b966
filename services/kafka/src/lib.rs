//! Kafka: the configuration every client is made from, the producer, the fenced consumer, and the topics of the
//! manifest.
//!
//! The meaning of records is in `schemas`; the crates of the roles process them.

#![deny(missing_docs)]

mod access;
pub mod bounds;
pub mod config;
pub mod consumer;
pub mod fence;
mod ffi;
pub mod log_identity;
pub mod log_reader;
pub mod log_state;
pub mod partition;
pub mod positions;
pub mod producer;
pub mod read_your_writes;
pub mod topics;
mod undecodable;
mod validation;

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rdkafka::ClientConfig;
use rdkafka::Timestamp;
use rdkafka::message::Message;
use schemas::native::{self, NativeRecord, Unreadable};
use schemas::topics::TopicNames;

/// How to reach the cluster. One value per process; every client is made from it.
#[derive(Clone)]
pub struct KafkaConfig {
    /// `host:port[,host:port…]`.
    pub brokers: String,
    /// librdkafka properties that override those of this crate, for every client.
    pub properties: Vec<(String, String)>,
    /// Topic and group names of this deployment.
    pub topics: TopicNames,
    /// Name of this instance, for static group membership; none: dynamic.
    pub instance: Option<String>,
}

impl KafkaConfig {
    /// Plain configuration: `brokers`, names behind `prefix`, nothing else.
    pub fn new(brokers: impl Into<String>, prefix: &str) -> Self {
        Self {
            brokers: brokers.into(),
            properties: Vec::new(),
            topics: TopicNames::with_prefix(prefix),
            instance: None,
        }
    }

    /// The configuration that every client starts with. `role` tells clients apart in the broker's log.
    pub fn client(&self, role: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("client.id", format!("triggers-{role}"));
        // A broker that comes back is found within a second; the default waits up to ten.
        config.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "1000");
        config.set("socket.nagle.disable", "true");
        // The version of every broker since Kafka 0.10 is asked, never guessed.
        config.set("allow.auto.create.topics", "false");
        config
    }

    /// A client for looking at the cluster, complete: metadata, watermarks, administration.
    pub fn admin_client(&self, role: &str) -> ClientConfig {
        let mut config = self.client(role);
        self.overlay(&mut config);
        config
    }

    /// Sets the operator's properties in `config`. They override earlier ones.
    pub(crate) fn overlay(&self, config: &mut ClientConfig) {
        for (name, value) in &self.properties {
            config.set(name, value);
        }
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be passwords or key files: names are enough to see what was set.
        let names: Vec<&str> = self.properties.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("properties", &names)
            .field("topics", &self.topics)
            .field("instance", &self.instance)
            .finish()
    }
}

/// One record as read, owned.
#[derive(Debug, Clone)]
pub struct Record {
    /// Full topic name.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Append time, milliseconds since the Unix epoch. Of a marker: when it was found, by the clock of
    /// this process.
    pub timestamp_ms: i64,
    /// Whether its producer chose the time (`CreateTime`): it may be any number.
    pub has_producers_time: bool,
    /// Key, if there is one.
    pub key: Option<Vec<u8>>,
    /// Value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers that have a value, in their order. In a name, U+FFFD replaces invalid UTF-8, and a NUL with what
    /// follows it.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Not a record: the last offset of a range that holds none (the end of a transaction, or aborted records). The
    /// position may move past it.
    pub is_marker: bool,
}

impl Record {
    /// Its append time, milliseconds since the Unix epoch; `None` for a marker. Times of the log are compared with this
    /// one only, because the clock of this process may differ.
    pub fn log_time_ms(&self) -> Option<i64> {
        (!self.is_marker).then_some(self.timestamp_ms)
    }

    /// Whether it may be applied at this time, milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// When its producer gave it a time that is more than a day ahead.
    pub fn check_time(&self, now_ms: i64) -> Result<(), Unreadable> {
        if self.has_producers_time { native::check_time(self.timestamp_ms, now_ms) } else { Ok(()) }
    }

    /// The record as `schemas` reads it.
    pub fn as_native(&self) -> NativeRecord<'_> {
        NativeRecord {
            topic: &self.topic,
            partition: self.partition,
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &self.headers,
        }
    }

    /// Bytes it holds on to, for bounds.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.key.as_ref().map_or(0, Vec::len) + self.value.as_ref().map_or(0, Vec::len) + headers
    }

    /// Copies a message of librdkafka. `topic` is the name of its topic, shared by all its records.
    pub fn copy_of(message: &rdkafka::message::BorrowedMessage<'_>, topic: &Arc<str>) -> Self {
        Self {
            topic: topic.clone(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
            has_producers_time: matches!(message.timestamp(), Timestamp::CreateTime(_)),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: ffi::headers(message),
            is_marker: false,
        }
    }

    fn marker(topic: Arc<str>, partition: i32, offset: i64) -> Self {
        let now_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|elapsed| i64::try_from(elapsed.as_millis()).ok());
        Self {
            topic,
            partition,
            offset,
            timestamp_ms: now_ms.unwrap_or(0),
            has_producers_time: false,
            key: None,
            value: None,
            headers: Vec::new(),
            is_marker: true,
        }
    }
}
