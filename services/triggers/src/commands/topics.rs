//! `triggers topics`: what differs between the cluster's topics and the manifest, and repairing it.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use kafka::KafkaConfig;
use kafka::config::KafkaArgs;
use kafka::topics::{self, Difference};

use super::print;
use crate::local::LocalArgs;

/// Flags of `triggers topics`.
#[derive(Args)]
pub(crate) struct TopicsArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    local: LocalArgs,
}

#[derive(Subcommand)]
enum Action {
    /// Show what differs; ends with 1 when something does
    Plan {
        #[command(flatten)]
        kafka: KafkaArgs,
    },
    /// Create and repair; never shrinks, never deletes
    Apply {
        #[command(flatten)]
        kafka: KafkaArgs,
        /// Also add partitions, although that moves keys: order across the change is lost
        #[arg(long)]
        add_partitions: bool,
    },
}

pub(super) async fn run(args: TopicsArgs) -> Result<()> {
    match args.action {
        Action::Plan { kafka } => {
            let differences = differences(&args.local.kafka(&kafka)?, &kafka).await?;
            differences.iter().try_for_each(|difference| print::line(&difference.to_string()))?;
            if differences.is_empty() {
                print::line("the topics are as the manifest wants them")
            } else {
                bail!("{} differences", differences.len())
            }
        }
        Action::Apply { kafka, add_partitions } => apply(&args.local.kafka(&kafka)?, &kafka, add_partitions).await,
    }
}

async fn differences(config: &KafkaConfig, args: &KafkaArgs) -> Result<Vec<Difference>> {
    Ok(topics::plan(config, &config.topics.manifest(args.topic_partitions), args.replication()).await?)
}

async fn apply(config: &KafkaConfig, args: &KafkaArgs, add_partitions: bool) -> Result<()> {
    let (held, repaired): (Vec<Difference>, Vec<Difference>) =
        differences(config, args).await?.into_iter().partition(|difference| match difference {
            Difference::TooFewPartitions { .. } => !add_partitions,
            Difference::TooFewReplicas { .. } => true,
            Difference::Missing(_) | Difference::Setting { .. } => false,
        });
    topics::apply(config, &repaired, args.replication()).await?;
    repaired.iter().try_for_each(|difference| print::line(&format!("applied: {difference}")))?;
    if repaired.is_empty() && held.is_empty() {
        return print::line("the topics are as the manifest wants them");
    }
    held.iter().try_for_each(|difference| print::line(&format!("left: {difference}")))?;
    if held.is_empty() { Ok(()) } else { bail!("{} differences were left; see above", held.len()) }
}
