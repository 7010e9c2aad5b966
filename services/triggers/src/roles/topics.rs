//! Whether the topics of a cluster are as the manifest has them.

use anyhow::Result;
use platform::config::KafkaArgs;
use platform::kafka::{KafkaConfig, topics};

/// Refuses to start on a cluster whose topics contradict the manifest; a cluster that does not answer is no
/// contradiction.
pub(super) async fn check_topics(args: &KafkaArgs, kafka: &KafkaConfig) -> Result<()> {
    let manifest = kafka.topics.manifest(args.topic_partitions);
    let differences = match topics::plan(kafka, &manifest, args.replication()).await {
        Ok(differences) => differences,
        Err(error) => {
            tracing::warn!(%error, "The topics could not be checked; Kafka may not be up yet.");
            return Ok(());
        }
    };
    validate_topics(&differences)
}

/// Refuses topics that contradict the manifest, and warns of every other difference. Repairs nothing: on a Kafka that was
/// given only the operator does.
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
        tracing::warn!(%difference, "A topic differs from the manifest; run: triggers topics apply");
    }
    Ok(())
}
