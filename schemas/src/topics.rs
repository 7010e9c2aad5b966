//! Topic names, and the topic configuration that `triggers topics plan|apply` compares with a cluster.

/// The log of record: one `Event` per record, keyed by organization.
pub const EVENTS: &str = "triggers.events.v1";
/// One `Ack` per record, keyed by organization.
pub const ACKS: &str = "triggers.acks.v1";
/// One `DeliveryAttempt` per record, keyed by organization.
pub const DELIVERIES: &str = "triggers.deliveries.v1";
/// Records that could not be decoded: original key and bytes, with the original position and the reason in headers.
pub const DEAD_LETTERS: &str = "triggers.dead-letters.v1";

/// Consumer group of the materializer.
pub const GROUP_MATERIALIZER: &str = "triggers.materializer";
/// Consumer group of the dispatcher.
pub const GROUP_DISPATCHER: &str = "triggers.dispatcher";

/// Consumer name of the materializer's positions. Records before such a position are visible in the view. The
/// dispatcher and the inbox wait for these positions.
pub const MATERIALIZER: &str = "materializer";

/// Default partition count of the three keyed topics. Their counts must be equal: the instance that owns partition `i`
/// of events also reads partition `i` of acks and deliveries.
pub const DEFAULT_PARTITIONS: i32 = 12;

/// Largest batch of the three keyed topics, after compression: Kafka's default, which the producers of all clients fit
/// into. Together with `compression.type`, with which the brokers compress each batch again, it bounds what a batch
/// takes when it is decompressed: readers stop at a zstd batch that is too large, but not at one of another codec.
pub const MAX_BATCH_BYTES: i64 = 1_048_588;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The topic names of one deployment. A prefix (empty in production) lets tests share a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicNames {
    /// See [`EVENTS`].
    pub events: String,
    /// See [`ACKS`].
    pub acks: String,
    /// See [`DELIVERIES`].
    pub deliveries: String,
    /// See [`DEAD_LETTERS`].
    pub dead_letters: String,
    /// See [`GROUP_MATERIALIZER`].
    pub group_materializer: String,
    /// See [`GROUP_DISPATCHER`].
    pub group_dispatcher: String,
}

impl TopicNames {
    /// The names, each with `prefix`.
    pub fn with_prefix(prefix: &str) -> Self {
        let name = |base: &str| format!("{prefix}{base}");
        Self {
            events: name(EVENTS),
            acks: name(ACKS),
            deliveries: name(DELIVERIES),
            dead_letters: name(DEAD_LETTERS),
            group_materializer: name(GROUP_MATERIALIZER),
            group_dispatcher: name(GROUP_DISPATCHER),
        }
    }

    /// The required configuration of each topic, with `partitions` for the three keyed topics.
    pub fn manifest(&self, partitions: i32) -> Vec<TopicSpec> {
        let setting = |name, bound, value: &dyn ToString| Setting { name, value: value.to_string(), bound };
        let log = |name: &str, retention_days: i64| TopicSpec {
            name: name.to_owned(),
            partitions,
            config: vec![
                setting("cleanup.policy", Bound::Exactly, &"delete"),
                setting("message.timestamp.type", Bound::Exactly, &"LogAppendTime"),
                setting("retention.ms", Bound::AtLeast, &(retention_days * DAY_MS)),
                setting("segment.ms", Bound::AtMost, &DAY_MS),
                setting("max.message.bytes", Bound::Exactly, &MAX_BATCH_BYTES),
                setting("compression.type", Bound::Exactly, &"zstd"),
            ],
        };
        vec![
            log(&self.events, 7),
            // Two days longer than events: an ack or attempt must still exist when its event is replayed.
            log(&self.acks, 9),
            log(&self.deliveries, 9),
            TopicSpec {
                name: self.dead_letters.clone(),
                partitions: 3,
                config: vec![
                    setting("cleanup.policy", Bound::Exactly, &"delete"),
                    setting("retention.ms", Bound::AtLeast, &(30 * DAY_MS)),
                    // The original record must fit together with the headers of the dead letter.
                    setting("max.message.bytes", Bound::AtLeast, &(2 * 1024 * 1024)),
                ],
            },
        ]
    }
}

/// The required configuration of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Full name, prefix included.
    pub name: String,
    /// Number of partitions; a cluster may have more, never fewer.
    pub partitions: i32,
    /// Required topic configuration.
    pub config: Vec<Setting>,
}

/// One required setting of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Kafka's name of it.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// How the value is meant.
    pub bound: Bound,
}

/// How a required value is meant. A cluster may keep more than the manifest asks for: lowering that would shrink what
/// it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// A larger number is right too.
    AtLeast,
    /// A smaller number is right too.
    AtMost,
    /// Only this value is right.
    Exactly,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers;

    const ASYNCAPI: &str = include_str!("../asyncapi.yaml");

    /// The part of the document after the line `key:` at this indentation, up to the next line that is not deeper. It
    /// starts with a line break, so that nested sections can be found in it.
    fn section<'a>(text: &'a str, indent: usize, key: &str) -> &'a str {
        let head = format!("\n{}{key}:\n", " ".repeat(indent));
        let start = text.find(&head).unwrap_or_else(|| panic!("{key} is missing")) + head.len() - 1;
        let rest = &text[start..];
        let deeper = |line: &str| line.trim().is_empty() || line.starts_with(&" ".repeat(indent + 1));
        let length = rest.split_inclusive('\n').take_while(|line| deeper(line)).map(str::len).sum();
        &rest[..length]
    }

    #[test]
    fn asyncapi_describes_the_topics_as_the_manifest_does() {
        let channels = section(ASYNCAPI, 0, "channels");
        let named: Vec<&str> = channels.lines().filter_map(|line| line.trim().strip_prefix("address: ")).collect();
        let manifest = TopicNames::with_prefix("").manifest(DEFAULT_PARTITIONS);
        assert_eq!(named, manifest.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>());
        for (topic, channel) in manifest.iter().zip(["events", "acks", "deliveries", "deadLetters"]) {
            let channel = section(channels, 2, channel);
            assert!(channel.contains(&format!("address: {}\n", topic.name)), "{}", topic.name);
            let kafka = section(channel, 6, "kafka");
            assert!(kafka.contains(&format!("partitions: {}\n", topic.partitions)), "{}", topic.name);
            let configuration = section(kafka, 8, "topicConfiguration");
            let documented = configuration.lines().filter(|line| line.starts_with("          ")).count();
            for Setting { name, value, .. } in &topic.config {
                let value = if *name == "cleanup.policy" { format!("[{value}]") } else { value.clone() };
                assert!(configuration.contains(&format!("{name}: {value}\n")), "{}: {name}", topic.name);
            }
            assert_eq!(documented, topic.config.len(), "{}", topic.name);
        }
    }

    #[test]
    fn asyncapi_describes_every_header_and_schema() {
        for name in [
            headers::CONTENT_TYPE,
            headers::TRACEPARENT,
            headers::TRACESTATE,
            headers::REQUEST_ID,
            headers::KEY_ID,
            headers::HOPS,
            headers::ORIGIN_TOPIC,
            headers::ORIGIN_PARTITION,
            headers::ORIGIN_OFFSET,
            headers::ORIGIN_TIMESTAMP,
            headers::DLQ_TOPIC,
            headers::DLQ_PARTITION,
            headers::DLQ_OFFSET,
            headers::DLQ_TIMESTAMP,
            headers::DLQ_GROUP,
            headers::DLQ_ERROR_CLASS,
            headers::DLQ_ERROR_MESSAGE,
            headers::DLQ_FIRST_SEEN,
        ] {
            assert!(ASYNCAPI.contains(&format!("        {name}: ")), "{name}");
        }
        for text in [
            headers::CONTENT_TYPE_AVRO,
            headers::CONTENT_TYPE_JSON,
            headers::CONTENT_TYPE_CLOUDEVENT,
            GROUP_MATERIALIZER,
            GROUP_DISPATCHER,
        ] {
            assert!(ASYNCAPI.contains(text), "{text}");
        }
        for schema in ["event.v3", "ack.v1", "delivery_attempt.v4"] {
            assert!(ASYNCAPI.contains(&format!("$ref: ./avro/{schema}.avsc\n")), "{schema}");
        }
    }
}
