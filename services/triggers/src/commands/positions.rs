//! `triggers positions`: lists the positions of the consumers, repairs positions outside of their log, and skips
//! records that cannot be read. `kafka::fence` decides what a repair or skip does; docs/operating.md says when to use
//! which.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kafka::config::KafkaArgs;
use kafka::fence::repair::{self, CheckedPosition, LogChange, RepairMode, StoredPosition, plan};
use kafka::fence::skip;
use kafka::positions;
use kafka::{KafkaConfig, log_reader};
use materializer::rebuild::REPLAY;
use runtime::config::PostgresArgs;
use runtime::postgres;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;

use super::print;
use crate::local_system::LocalSystemArgs;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Options of `triggers positions`.
#[derive(Args)]
pub(crate) struct PositionsArgs {
    #[command(subcommand)]
    action: PositionsAction,
    #[command(flatten)]
    local: LocalSystemArgs,
}

#[derive(Subcommand)]
enum PositionsAction {
    /// Print the position of every consumer, the bounds of its log, and whether the position is inside of them
    List(ConnectionArgs),
    /// Move positions outside of their log to its start and give up unread records. Without --yes, only print what it
    /// would do
    Repair(RepairArgs),
    /// Move positions past records that cannot be read, and give those up. Without --yes, only print what it would do
    Skip(SkipArgs),
}

#[derive(Args)]
struct ConnectionArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    postgres: PostgresArgs,
}

#[derive(Args)]
struct RepairArgs {
    /// Consumer, as `list` prints it
    #[arg(long, required_unless_present = "all_outside")]
    consumer: Option<String>,
    /// Full name of the topic
    #[arg(long, required_unless_present = "all_outside")]
    topic: Option<String>,
    /// Partition
    #[arg(long, required_unless_present = "all_outside")]
    partition: Option<i32>,
    /// Repair every position that is outside of its log
    #[arg(long, conflicts_with_all = ["consumer", "topic", "partition"])]
    all_outside: bool,
    /// Keep the offset although the topic was recreated or lost its end: for a topic that was restored with its offsets
    #[arg(long, conflicts_with = "all_outside")]
    keep: bool,
    /// Really move the positions
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    connections: ConnectionArgs,
}

#[derive(Args)]
struct SkipArgs {
    /// Consumer, as `list` prints it; default: every consumer of the partition, if all are at the same offset
    #[arg(long)]
    consumer: Option<String>,
    /// Full name of the topic
    #[arg(long)]
    topic: String,
    /// Partition
    #[arg(long)]
    partition: i32,
    /// Next offset to read: the first one after the records that cannot be read
    #[arg(long, value_name = "OFFSET")]
    to: i64,
    /// Really move the positions
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    connections: ConnectionArgs,
}

pub(super) async fn run(args: PositionsArgs) -> Result<()> {
    match args.action {
        PositionsAction::List(connections) => {
            let (_, positions) = connections.check_positions(&args.local).await?;
            list(&positions)
        }
        PositionsAction::Repair(action) => {
            let (pool, positions) = action.connections.check_positions(&args.local).await?;
            repair(&pool, &positions, &action).await
        }
        PositionsAction::Skip(action) => {
            let (pool, positions) = action.connections.check_positions(&args.local).await?;
            skip(&args.local.kafka(&action.connections.kafka)?, &pool, &positions, &action).await
        }
    }
}

impl ConnectionArgs {
    /// Reads the stored positions and compares each with its log.
    async fn check_positions(&self, local: &LocalSystemArgs) -> Result<(PgPool, Vec<CheckedPosition>)> {
        let kafka = local.kafka(&self.kafka)?;
        let pool = postgres::connect(&local.postgres(&self.postgres)?).context("DATABASE_URL")?;
        postgres::check_connection(&pool).await.map_err(anyhow::Error::msg)?;
        let mut positions = repair::positions(&pool).await.context("cannot read the positions")?;
        // An interrupted replay leaves its position behind; the next replay does not use it.
        positions.retain(|position| position.consumer != REPLAY);
        let checked = compare_with_logs(&kafka, positions).await?;
        Ok((pool, checked))
    }
}

/// Queries the brokers for the log of each position. Positions without an answer get no log, and a warning is printed.
async fn compare_with_logs(kafka: &KafkaConfig, positions: Vec<StoredPosition>) -> Result<Vec<CheckedPosition>> {
    let checked = match positions::check(kafka, &positions, TIMEOUT).await {
        Ok(checked) => checked,
        Err(error) => {
            print::warn(&format!("Kafka does not answer, so the bounds of the logs are unknown: {error}"))?;
            return Ok(positions.into_iter().map(|position| CheckedPosition { position, log: None }).collect());
        }
    };
    let mut unanswered: BTreeMap<(&str, String), BTreeSet<i32>> = BTreeMap::new();
    for (position, log) in positions.iter().zip(&checked) {
        if let Err(error) = log {
            unanswered.entry((&position.topic, error.to_string())).or_default().insert(position.partition);
        }
    }
    for ((topic, error), partitions) in unanswered {
        let partitions: Vec<String> = partitions.iter().map(ToString::to_string).collect();
        let partitions = partitions.join(", ");
        print::warn(&format!("{topic}: the brokers do not report the bounds of partitions {partitions}: {error}"))?;
    }
    Ok(positions.into_iter().zip(checked).map(|(position, log)| CheckedPosition { position, log: log.ok() }).collect())
}

fn list(positions: &[CheckedPosition]) -> Result<()> {
    let line = |checked: &CheckedPosition| -> Value {
        let (position, bounds) = (&checked.position, checked.log.as_ref().map(|log| log.bounds));
        json!({
            "consumer": position.consumer, "topic": position.topic, "partition": position.partition,
            "position": position.next_offset, "log_start": bounds.map(|bounds| bounds.start),
            "log_end": bounds.map(|bounds| bounds.end), "log_epoch": position.log_epoch, "state": checked.state(),
        })
    };
    let columns = [
        ("CONSUMER", "/consumer"),
        ("TOPIC", "/topic"),
        ("PARTITION", "/partition"),
        ("POSITION", "/position"),
        ("LOG START", "/log_start"),
        ("LOG END", "/log_end"),
        ("LOG EPOCH", "/log_epoch"),
        ("STATE", "/state"),
    ];
    print::table(&positions.iter().map(line).collect::<Vec<_>>(), &columns)
}

async fn repair(pool: &PgPool, positions: &[CheckedPosition], args: &RepairArgs) -> Result<()> {
    let mode = if args.keep { RepairMode::KeepOffset } else { RepairMode::ReadAgain };
    let is_selected = |position: &StoredPosition| {
        args.all_outside
            || (args.consumer.as_deref(), args.topic.as_deref(), args.partition)
                == (Some(&position.consumer), Some(&position.topic), Some(position.partition))
    };
    if !args.all_outside {
        let named = positions.iter().find(|checked| is_selected(&checked.position));
        repair::check(named.context("there is no such position; see: triggers positions list")?, mode)?;
    }
    let repairs = plan(positions, is_selected, mode);
    // Reported at the end: positions whose log is known can be repaired all the same.
    let unknown = positions.iter().filter(|checked| checked.log.is_none() && is_selected(&checked.position)).count();
    let fail_if_unknown = || match unknown {
        0 => Ok(()),
        _ => bail!("{unknown} positions could not be checked against their logs; see: triggers positions list"),
    };
    if repairs.is_empty() {
        fail_if_unknown()?;
        return print::line("every position is inside of its log; nothing to repair");
    }
    for repair in &repairs {
        repair.lines().iter().try_for_each(|line| print::line(line))?;
    }
    if !args.yes {
        bail!("nothing was changed; to do this, repeat the command with --yes");
    }
    for repair in &repairs {
        let partition = format!("{}[{}]", repair.topic, repair.partition);
        let moved: Vec<&StoredPosition> = repair.moved.iter().map(|checked| &checked.position).collect();
        let done = repair::repair(pool, repair.topic, repair.partition, &moved, repair.to, repair.log, repair.topic_id);
        match done.await.with_context(|| format!("cannot repair {partition}"))? {
            Some(_) if repair.log == LogChange::SameLog => print::line(&format!("repaired: {partition}"))?,
            Some(log_epoch) => print::line(&format!("repaired: {partition}, which starts log epoch {log_epoch}"))?,
            None => bail!("{partition} was not repaired: a position moved meanwhile; see: triggers positions list"),
        }
    }
    fail_if_unknown()
}

async fn skip(kafka: &KafkaConfig, pool: &PgPool, checked: &[CheckedPosition], args: &SkipArgs) -> Result<()> {
    let is_named = |checked: &&CheckedPosition| {
        let StoredPosition { consumer, topic, partition, .. } = &checked.position;
        (topic, *partition) == (&args.topic, args.partition)
            && args.consumer.as_ref().is_none_or(|name| name == consumer)
    };
    let named: Vec<&CheckedPosition> = checked.iter().filter(is_named).collect();
    skip::check(&named, args.to)?;
    let positions: Vec<&StoredPosition> = named.iter().map(|checked| &checked.position).collect();
    positions.iter().try_for_each(|position| print::line(&skip::line(position, args.to)))?;
    if let Ok(Some(text)) = log_reader::undecodable_at(kafka, &args.topic, args.partition, args.to).await {
        print::warn(&format!(
            "the batch at offset {} cannot be decoded either, so the consumers will stop there again: {text}",
            args.to
        ))?;
    }
    if !args.yes {
        bail!("nothing was changed; to do this, repeat the command with --yes");
    }
    let partition = format!("{}[{}]", args.topic, args.partition);
    if !skip::skip(pool, &positions, args.to)
        .await
        .with_context(|| format!("cannot move the positions of {partition}"))?
    {
        bail!("nothing was skipped in {partition}: a position moved meanwhile; see: triggers positions list");
    }
    print::line(&format!("skipped: {partition} is read from offset {}", args.to))
}
