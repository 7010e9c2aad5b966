//! Compares the topics of a cluster with the manifest at the start of a role.

use anyhow::Result;
use kafka::config::KafkaArgs;
use kafka::topics::TopicsError;
use kafka::{KafkaConfig, topics};

/// Fails if a topic cannot be used. A cluster that does not answer is only a warning: the role starts and waits for it.
pub(super) async fn check_topics(args: &KafkaArgs, kafka: &KafkaConfig) -> Result<()> {
    let manifest = kafka.topics.manifest(args.topic_partitions);
    let differences = match topics::plan(kafka, &manifest, args.replication()).await {
        Ok(differences) => differences,
        Err(error @ TopicsError::Refused { .. }) => {
            tracing::warn!(%error, "Cannot check the topics, Kafka refuses it; starting without the check");
            return Ok(());
        }
        Err(error) => {
            tracing::warn!(%error, "Cannot check the topics, Kafka does not answer; starting without the check");
            return Ok(());
        }
    };
    validate_topics(&differences)
}

/// Fails if a topic has too few replicas or the wrong timestamp type, and warns about every other difference. It
/// repairs nothing: on an existing Kafka only the operator does that.
pub(crate) fn validate_topics(differences: &[topics::Difference]) -> Result<()> {
    let fatal = differences.iter().find(|difference| match difference {
        topics::Difference::TooFewReplicas { .. } => true,
        topics::Difference::Setting { name, .. } => name == "message.timestamp.type",
        _ => false,
    });
    if let Some(difference) = fatal {
        anyhow::bail!("{difference}");
    }
    for difference in differences {
        tracing::warn!(%difference, "Topic differs from the manifest; run: triggers topics apply");
    }
    Ok(())
}
