//! The topics: their names, and the manifest that `triggers topics plan|apply` holds against a cluster.

/// The log of record: one `Event` per record, keyed by organization.
pub const EVENTS: &str = "triggers.events.v1";
/// One `Ack` per record, keyed by organization.
pub const ACKS: &str = "triggers.acks.v1";
/// One `DeliveryAttempt` per record, keyed by organization.
pub const DELIVERIES: &str = "triggers.deliveries.v1";
/// Records nobody could read: original key and bytes, the place of origin and the reason in headers.
pub const DEAD_LETTERS: &str = "triggers.dead-letters.v1";

/// Consumer group of the materializer.
pub const GROUP_MATERIALIZER: &str = "triggers.materializer";
/// Consumer group of the dispatcher.
pub const GROUP_DISPATCHER: &str = "triggers.dispatcher";

/// Default partition count of the three keyed topics. They must be equal: partition `i` of acks and deliveries belongs to the
/// instance that owns partition `i` of events.
pub const DEFAULT_PARTITIONS: i32 = 12;

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
    /// The names, each behind `prefix`.
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

    /// What each topic must look like: `partitions` for the three keyed topics.
    pub fn manifest(&self, partitions: i32) -> Vec<TopicSpec> {
        let log = |name: &str, retention_days: i64| TopicSpec {
            name: name.to_owned(),
            partitions,
            config: vec![
                ("cleanup.policy", "delete".to_owned()),
                ("message.timestamp.type", "LogAppendTime".to_owned()),
                ("retention.ms", (retention_days * DAY_MS).to_string()),
                ("segment.ms", DAY_MS.to_string()),
            ],
        };
        vec![
            log(&self.events, 7),
            // Two days longer than events: an effect must still be there when its event is read again.
            log(&self.acks, 9),
            log(&self.deliveries, 9),
            TopicSpec {
                name: self.dead_letters.clone(),
                partitions: 3,
                config: vec![
                    ("cleanup.policy", "delete".to_owned()),
                    ("retention.ms", (30 * DAY_MS).to_string()),
                    // Original bytes plus our headers must fit, whatever the original's size was.
                    ("max.message.bytes", (2 * 1024 * 1024).to_string()),
                ],
            },
        ]
    }
}

/// One topic as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Full name, prefix included.
    pub name: String,
    /// Number of partitions; a cluster may have more, never fewer.
    pub partitions: i32,
    /// Topic configuration that must hold, as (name, value).
    pub config: Vec<(&'static str, String)>,
}
