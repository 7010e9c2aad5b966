//! `triggers topics`: compares the topics of the cluster with the manifest, and repairs them.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use kafka::KafkaConfig;
use kafka::config::KafkaArgs;
use kafka::topics::{self, Difference};
use schemas::role::Role;

use super::print;
use crate::local_system::LocalSystemArgs;

/// Options of `triggers topics`.
#[derive(Args)]
pub(crate) struct TopicsArgs {
    #[command(subcommand)]
    action: TopicsAction,
    #[command(flatten)]
    local: LocalSystemArgs,
}

#[derive(Subcommand)]
enum TopicsAction {
    /// Print the differences from the manifest; exits with 1 if there are any
    Plan {
        #[command(flatten)]
        kafka: KafkaArgs,
    },
    /// Create missing topics and repair settings; never deletes topics or partitions
    Apply {
        #[command(flatten)]
        kafka: KafkaArgs,
        /// Also add partitions. This moves keys to other partitions, so events before and after are not in order
        #[arg(long)]
        add_partitions: bool,
    },
    /// Print the commands that give the Kafka users ingest, materializer and dispatcher the rights of these roles
    Acls {
        #[command(flatten)]
        kafka: KafkaArgs,
        /// File with the settings of a client that may change rights
        #[arg(long, value_name = "FILE", default_value = "admin.properties")]
        command_config: String,
    },
}

pub(super) async fn run(args: TopicsArgs) -> Result<()> {
    match args.action {
        TopicsAction::Plan { kafka } => {
            let differences = differences(&args.local.kafka(&kafka)?, &kafka).await?;
            differences.iter().try_for_each(|difference| print::line(&difference.to_string()))?;
            if differences.is_empty() {
                print::line("all topics match the manifest")
            } else {
                bail!("{} differences from the manifest; to repair them: triggers topics apply", differences.len())
            }
        }
        TopicsAction::Apply { kafka, add_partitions } => {
            apply(&args.local.kafka(&kafka)?, &kafka, add_partitions).await
        }
        TopicsAction::Acls { kafka, command_config } => print_acls(&args.local.kafka(&kafka)?, &command_config),
    }
}

fn print_acls(config: &KafkaConfig, command_config: &str) -> Result<()> {
    let command = format!("kafka-acls.sh --bootstrap-server {} --command-config {command_config}", config.brokers);
    for role in Role::ALL {
        for right in config.topics.rights(role) {
            print::line(&format!("{command} {}", right.arguments(&format!("User:{}", role.name()))))?;
        }
    }
    Ok(())
}

async fn differences(config: &KafkaConfig, args: &KafkaArgs) -> Result<Vec<Difference>> {
    Ok(topics::plan(config, &config.topics.manifest(args.topic_partitions), args.replication()).await?)
}

async fn apply(config: &KafkaConfig, args: &KafkaArgs, add_partitions: bool) -> Result<()> {
    let (left, repaired): (Vec<Difference>, Vec<Difference>) =
        differences(config, args).await?.into_iter().partition(|difference| match difference {
            Difference::TooFewPartitions { .. } => !add_partitions,
            Difference::TooFewReplicas { .. } => true,
            Difference::Missing(_) | Difference::Setting { .. } => false,
        });
    topics::apply(config, &repaired, args.replication()).await?;
    repaired.iter().try_for_each(|difference| print::line(&format!("applied: {difference}")))?;
    if repaired.is_empty() && left.is_empty() {
        return print::line("all topics match the manifest");
    }
    left.iter().try_for_each(|difference| print::line(&format!("not repaired: {difference}")))?;
    if left.is_empty() { Ok(()) } else { bail!("{} differences were not repaired", left.len()) }
}
