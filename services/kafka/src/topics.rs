//! Compares the topics of a cluster with the manifest, and repairs what differs. Deletes nothing, and never
//! shortens what a topic keeps.

use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use schemas::topics::{Bound, Setting, TopicSpec};

use super::{KafkaConfig, access};

/// How topics are replicated; a topic with fewer replicas is a difference that only Kafka's own tools can repair.
#[derive(Debug, Clone, Copy)]
pub struct Replication {
    /// Copies of each partition: 3 in production, 1 on one broker.
    pub factor: i32,
    /// Copies that must have a record before it counts: 2 in production, 1 on one broker.
    pub min_in_sync: i32,
}

/// One difference between manifest and cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The topic is not there.
    Missing(TopicSpec),
    /// It has too few partitions. Adding them moves keys: an organization's later records go elsewhere.
    TooFewPartitions {
        /// Topic.
        topic: String,
        /// How many it has.
        has: i32,
        /// How many it must have.
        wants: i32,
    },
    /// A setting differs.
    Setting {
        /// Topic.
        topic: String,
        /// Property name.
        name: String,
        /// What the cluster has.
        has: String,
        /// What the manifest wants.
        wants: String,
        /// How that is meant.
        bound: Bound,
    },
    /// The topic has fewer replicas than configured. Only a reassignment by Kafka's own tools repairs it.
    TooFewReplicas {
        /// Topic.
        topic: String,
        /// How many it has.
        has: i32,
        /// How many it must have.
        wants: i32,
    },
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(spec) => write!(f, "{}: missing; it is to have {} partitions", spec.name, spec.partitions),
            Self::TooFewPartitions { topic, has, wants } => {
                write!(
                    f,
                    "{topic}: {has} partitions, {wants} wanted; adding partitions moves keys, so order across the \
                     change is lost"
                )
            }
            Self::Setting { topic, name, has, wants, bound } => {
                let bound = match bound {
                    Bound::AtLeast => "at least ",
                    Bound::AtMost => "at most ",
                    Bound::Exactly => "",
                };
                write!(f, "{topic}: {name} is {has}, must be {bound}{wants}")
            }
            Self::TooFewReplicas { topic, has, wants } => {
                write!(f, "{topic}: {has} replicas, {wants} configured; repair it with kafka-reassign-partitions")
            }
        }
    }
}

/// Whether the setting `name` that is `has` is as the manifest wants it.
fn holds(name: &str, wants: &str, bound: Bound, has: &str) -> bool {
    // To Kafka, -1 is a retention without end.
    if has == wants || (name == "retention.ms" && has == "-1") {
        return true;
    }
    let (Ok(has), Ok(wants)) = (has.parse::<i64>(), wants.parse::<i64>()) else {
        return false;
    };
    match bound {
        Bound::AtLeast => has >= wants,
        Bound::AtMost => has <= wants,
        Bound::Exactly => false,
    }
}

/// Why topics could not be compared or repaired.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    /// The cluster did not answer or refused the call.
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// No connection, and what failed with the last one: the network, TLS, or the password.
    #[error("Kafka: {0}: {1}")]
    Connection(KafkaError, String),
    /// The cluster refused one topic's change.
    #[error("{topic}: {reason}")]
    Refused {
        /// Which.
        topic: String,
        /// The broker's reason.
        reason: String,
    },
    /// The work was cut off.
    #[error("interrupted: {0}")]
    Interrupted(String),
}

const TIMEOUT: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What differs between `manifest` and the cluster, in the manifest's order.
///
/// # Errors
/// When the cluster does not answer.
pub async fn plan(
    config: &KafkaConfig,
    manifest: &[TopicSpec],
    replication: Replication,
) -> Result<Vec<Difference>, TopicsError> {
    let existing = existing(config, manifest.iter().map(|spec| spec.name.clone()).collect()).await?;
    let mut differences = Vec::new();
    let mut present = Vec::new();
    for spec in manifest {
        match existing.iter().find(|topic| topic.name == spec.name) {
            None => differences.push(Difference::Missing(spec.clone())),
            Some(topic) => {
                if topic.partitions < spec.partitions {
                    differences.push(Difference::TooFewPartitions {
                        topic: spec.name.clone(),
                        has: topic.partitions,
                        wants: spec.partitions,
                    });
                }
                if topic.replicas < replication.factor {
                    differences.push(Difference::TooFewReplicas {
                        topic: spec.name.clone(),
                        has: topic.replicas,
                        wants: replication.factor,
                    });
                }
                present.push(spec);
            }
        }
    }
    differences.extend(settings_that_differ(config, &present, replication).await?);
    Ok(differences)
}

/// Repairs what can be repaired. Topics that another instance created meanwhile are accepted as they are.
///
/// # Errors
/// The first refusal of the cluster. Earlier repairs are kept.
pub async fn apply(
    config: &KafkaConfig,
    differences: &[Difference],
    replication: Replication,
) -> Result<(), TopicsError> {
    let admin = admin(config)?;
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    let min_in_sync = replication.min_in_sync.to_string();
    let missing: Vec<&TopicSpec> =
        differences.iter().filter_map(|d| if let Difference::Missing(spec) = d { Some(spec) } else { None }).collect();
    let new_topics: Vec<NewTopic<'_>> = missing
        .iter()
        .map(|spec| {
            let topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(replication.factor));
            let topic = topic.set("min.insync.replicas", &min_in_sync);
            spec.config.iter().fold(topic, |topic, setting| topic.set(setting.name, &setting.value))
        })
        .collect();
    if !new_topics.is_empty() {
        for result in admin.create_topics(&new_topics, &options).await? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(TopicsError::Refused { topic, reason: code.to_string() }),
            }
        }
    }
    for difference in differences {
        if let Difference::TooFewPartitions { topic, wants, .. } = difference {
            let count = usize::try_from(*wants).unwrap_or(1);
            refusal(admin.create_partitions(&[NewPartitions::new(topic, count)], &options).await?)?;
        }
    }
    alter_settings(&admin, differences, &options).await?;
    until_shown(config, &admin, differences).await
}

/// Waits until the brokers show the repairs: the controller answers before they have heard of them, and the next query
/// would report the same differences again. Bounded, as it is certain that the controller has them.
async fn until_shown(
    config: &KafkaConfig,
    admin: &AdminClient<DefaultClientContext>,
    repaired: &[Difference],
) -> Result<(), TopicsError> {
    let until = Instant::now() + TIMEOUT;
    while !is_shown(config, admin, repaired).await? && Instant::now() < until {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

async fn is_shown(
    config: &KafkaConfig,
    admin: &AdminClient<DefaultClientContext>,
    repaired: &[Difference],
) -> Result<bool, TopicsError> {
    let mut partitions: Vec<(&str, i32)> = Vec::new();
    for difference in repaired {
        match difference {
            Difference::Missing(spec) => partitions.push((&spec.name, spec.partitions)),
            Difference::TooFewPartitions { topic, wants, .. } => partitions.push((topic, *wants)),
            Difference::Setting { .. } | Difference::TooFewReplicas { .. } => {}
        }
    }
    if !partitions.is_empty() {
        let existing = existing(config, partitions.iter().map(|(topic, _)| (*topic).to_owned()).collect()).await?;
        let has = |name, wants| existing.iter().any(|topic| topic.name == name && topic.partitions >= wants);
        if !partitions.iter().all(|(name, wants)| has(*name, *wants)) {
            return Ok(false);
        }
    }
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
    for difference in repaired {
        let Difference::Setting { topic, name, wants, bound, .. } = difference else { continue };
        for described in admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await? {
            let described = described.map_err(|code| refused(topic, code))?;
            let has = described.get(name).and_then(|entry| entry.value.as_deref());
            if !holds(name, wants, *bound, has.unwrap_or_default()) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Sets a topic's settings all at once: the broker replaces a topic's overrides as a whole, so the ones that do not
/// differ are given again.
async fn alter_settings(
    admin: &AdminClient<DefaultClientContext>,
    differences: &[Difference],
    options: &AdminOptions,
) -> Result<(), TopicsError> {
    let mut topics: Vec<&str> = differences
        .iter()
        .filter_map(|d| if let Difference::Setting { topic, .. } = d { Some(topic.as_str()) } else { None })
        .collect();
    topics.dedup();
    for topic in topics {
        let resource = ResourceSpecifier::Topic(topic);
        let mut kept: Vec<(String, String)> = Vec::new();
        for described in admin.describe_configs([&resource], options).await? {
            let described =
                described.map_err(|code| TopicsError::Refused { topic: topic.to_owned(), reason: code.to_string() })?;
            let own = described
                .entries
                .into_iter()
                .filter(|entry| matches!(entry.source, rdkafka::admin::ConfigSource::DynamicTopic));
            kept.extend(own.filter_map(|entry| Some((entry.name, entry.value?))));
        }
        for difference in differences {
            if let Difference::Setting { topic: of, name, wants, .. } = difference
                && of == topic
            {
                kept.retain(|(known, _)| known != name);
                kept.push((name.clone(), wants.clone()));
            }
        }
        let alter = kept.iter().fold(AlterConfig::new(resource), |alter, (name, value)| alter.set(name, value));
        for result in admin.alter_configs([&alter], options).await? {
            result.map_err(|(_, code)| TopicsError::Refused { topic: topic.to_owned(), reason: code.to_string() })?;
        }
    }
    Ok(())
}

struct Existing {
    name: String,
    partitions: i32,
    replicas: i32,
}

fn admin(config: &KafkaConfig) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
    config.admin_client("admin").create()
}

async fn existing(config: &KafkaConfig, names: Vec<String>) -> Result<Vec<Existing>, TopicsError> {
    let (admin, config) = (admin(config)?, config.clone());
    let fetched = tokio::task::spawn_blocking(move || {
        let fetched = admin.inner().fetch_metadata(None, TIMEOUT);
        let metadata = fetched.map_err(|error| match access::connection_failure(&config) {
            Some(text) => TopicsError::Connection(error, text),
            None => error.into(),
        })?;
        let is_listed = |name: &String| metadata.topics().iter().any(|topic| topic.name() == name);
        // The list leaves out a topic that this user may not describe.
        for name in names.iter().filter(|name| !is_listed(name)) {
            let asked = admin.inner().fetch_metadata(Some(name), TIMEOUT)?;
            let error = asked.topics().first().and_then(|topic| topic.error()).map(RDKafkaErrorCode::from);
            if error == Some(RDKafkaErrorCode::TopicAuthorizationFailed) {
                return Err(refused(name, RDKafkaErrorCode::TopicAuthorizationFailed));
            }
        }
        let wanted = metadata
            .topics()
            .iter()
            .filter(|topic| names.iter().any(|name| name == topic.name()) && !topic.partitions().is_empty());
        let existing = wanted.map(|topic| Existing {
            name: topic.name().to_owned(),
            partitions: i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX),
            replicas: topic
                .partitions()
                .iter()
                .map(|p| i32::try_from(p.replicas().len()).unwrap_or(i32::MAX))
                .min()
                .unwrap_or(0),
        });
        Ok(existing.collect())
    });
    fetched.await.map_err(|e| TopicsError::Interrupted(e.to_string()))?
}

fn refused(topic: &str, code: RDKafkaErrorCode) -> TopicsError {
    let reason = match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => access::refusal("the topic"),
        code => code.to_string(),
    };
    TopicsError::Refused { topic: topic.to_owned(), reason }
}

async fn settings_that_differ(
    config: &KafkaConfig,
    specs: &[&TopicSpec],
    replication: Replication,
) -> Result<Vec<Difference>, TopicsError> {
    if specs.is_empty() {
        return Ok(Vec::new());
    }
    let admin = admin(config)?;
    let resources: Vec<ResourceSpecifier<'_>> = specs.iter().map(|spec| ResourceSpecifier::Topic(&spec.name)).collect();
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
    let described = admin.describe_configs(&resources, &options).await?;
    let mut differences = Vec::new();
    for (spec, described) in specs.iter().zip(described) {
        let described = described.map_err(|code| refused(&spec.name, code))?;
        let (value, bound) = (replication.min_in_sync.to_string(), Bound::AtLeast);
        let min_in_sync = Setting { name: "min.insync.replicas", value, bound };
        for setting in spec.config.iter().chain([&min_in_sync]) {
            let has = described.get(setting.name).and_then(|entry| entry.value.clone()).unwrap_or_default();
            if !holds(setting.name, &setting.value, setting.bound, &has) {
                let (topic, name, wants) = (spec.name.clone(), setting.name.to_owned(), setting.value.clone());
                differences.push(Difference::Setting { topic, name, has, wants, bound: setting.bound });
            }
        }
    }
    Ok(differences)
}

fn refusal(results: Vec<Result<String, (String, RDKafkaErrorCode)>>) -> Result<(), TopicsError> {
    results.into_iter().try_for_each(|result| {
        result.map(drop).map_err(|(topic, code)| TopicsError::Refused { topic, reason: code.to_string() })
    })
}
