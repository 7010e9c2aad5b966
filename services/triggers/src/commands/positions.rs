//! `triggers positions`: where the consumers are on the log, repairing positions that lie outside of it, and skipping
//! what cannot be read. What either does is decided in `kafka::fence`; docs/operating.md says when to use which.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kafka::config::KafkaArgs;
use kafka::fence::repair::{self, CheckedPosition, Log, RepairMode, StoredPosition, plan};
use kafka::fence::skip;
use kafka::positions;
use kafka::{KafkaConfig, log_reader};
use materializer::rebuild::REPLAY;
use runtime::config::PostgresArgs;
use runtime::postgres;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;

use super::print;
use crate::local::LocalArgs;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Flags of `triggers positions`.
#[derive(Args)]
pub(crate) struct PositionsArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    local: LocalArgs,
}

#[derive(Subcommand)]
enum Action {
    /// Print every consumer's position, where the log begins and ends, and whether the position lies inside
    List(Connections),
    /// Set positions outside of their log to its begin, giving up what was not read; says what it would do, and does it
    /// with --yes
    Repair(RepairArgs),
    /// Go past what cannot be read, giving it up; says what it would do, and does it with --yes
    Skip(SkipArgs),
}

#[derive(Args)]
struct Connections {
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    postgres: PostgresArgs,
}

#[derive(Args)]
struct RepairArgs {
    /// Whose position
    #[arg(long, required_unless_present = "all_outside")]
    consumer: Option<String>,
    /// Full name of the topic
    #[arg(long, required_unless_present = "all_outside")]
    topic: Option<String>,
    /// Which partition
    #[arg(long, required_unless_present = "all_outside")]
    partition: Option<i32>,
    /// Every position that lies outside of its log
    #[arg(long, conflicts_with_all = ["consumer", "topic", "partition"])]
    all_outside: bool,
    /// Go on at the position although the topic is another one or lost its end: for a topic that was restored with the
    /// offsets that it had
    #[arg(long, conflicts_with = "all_outside")]
    keep: bool,
    /// Do it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    connections: Connections,
}

#[derive(Args)]
struct SkipArgs {
    /// Whose position; default: every consumer of the partition, if they are at the same offset
    #[arg(long)]
    consumer: Option<String>,
    /// Full name of the topic
    #[arg(long)]
    topic: String,
    /// Which partition
    #[arg(long)]
    partition: i32,
    /// Where to go on: the first offset behind what cannot be read
    #[arg(long, value_name = "OFFSET")]
    to: i64,
    /// Do it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    connections: Connections,
}

pub(super) async fn run(args: PositionsArgs) -> Result<()> {
    match args.action {
        Action::List(connections) => {
            let (_, known) = connections.look(&args.local).await?;
            list(&known)
        }
        Action::Repair(wanted) => {
            let (pool, known) = wanted.connections.look(&args.local).await?;
            repair(&pool, &known, &wanted).await
        }
        Action::Skip(wanted) => {
            let (pool, known) = wanted.connections.look(&args.local).await?;
            skip(&args.local.kafka(&wanted.connections.kafka)?, &pool, &known, &wanted).await
        }
    }
}

impl Connections {
    async fn look(&self, local: &LocalArgs) -> Result<(PgPool, Vec<CheckedPosition>)> {
        let kafka = local.kafka(&self.kafka)?;
        let pool = postgres::connect(&local.postgres(&self.postgres)?).context("DATABASE_URL")?;
        postgres::check_connection(&pool).await.map_err(anyhow::Error::msg)?;
        let mut positions = repair::positions(&pool).await.context("the positions could not be read")?;
        // Noted down by a replay for itself, and left where it was interrupted: the next one begins elsewhere.
        positions.retain(|position| position.consumer != REPLAY);
        let known = with_bounds(&kafka, positions).await?;
        Ok((pool, known))
    }
}

/// Asks the brokers for each position's log. Of a topic that is not there nothing is known.
async fn with_bounds(kafka: &KafkaConfig, positions: Vec<StoredPosition>) -> Result<Vec<CheckedPosition>> {
    let looked = match positions::check(kafka, &positions, TIMEOUT).await {
        Ok(looked) => looked,
        Err(error) => {
            print::warn(&format!("Kafka does not answer, so nothing is known of the logs: {error}"))?;
            return Ok(positions.into_iter().map(|position| CheckedPosition { position, log: None }).collect());
        }
    };
    let mut unknown: BTreeMap<(&str, String), BTreeSet<i32>> = BTreeMap::new();
    for (position, bounds) in positions.iter().zip(&looked) {
        if let Err(error) = bounds {
            unknown.entry((&position.topic, error.to_string())).or_default().insert(position.partition);
        }
    }
    for ((topic, error), partitions) in unknown {
        let partitions: Vec<String> = partitions.iter().map(ToString::to_string).collect();
        let partitions = partitions.join(", ");
        print::warn(&format!(
            "{topic}: the brokers did not tell where partitions {partitions} begin and end: {error}"
        ))?;
    }
    Ok(positions.into_iter().zip(looked).map(|(position, log)| CheckedPosition { position, log: log.ok() }).collect())
}

fn list(known: &[CheckedPosition]) -> Result<()> {
    let line = |known: &CheckedPosition| -> Value {
        let (position, bounds) = (&known.position, known.log.as_ref().map(|log| log.bounds));
        json!({
            "consumer": position.consumer, "topic": position.topic, "partition": position.partition, "position": position.next_offset,
            "log_begin": bounds.map(|bounds| bounds.begin), "log_end": bounds.map(|bounds| bounds.end),
            "log_epoch": position.log_epoch, "state": known.state(),
        })
    };
    let columns = [
        ("CONSUMER", "/consumer"),
        ("TOPIC", "/topic"),
        ("PARTITION", "/partition"),
        ("POSITION", "/position"),
        ("LOG BEGIN", "/log_begin"),
        ("LOG END", "/log_end"),
        ("LOG EPOCH", "/log_epoch"),
        ("STATE", "/state"),
    ];
    print::table(&known.iter().map(line).collect::<Vec<_>>(), &columns)
}

async fn repair(pool: &PgPool, known: &[CheckedPosition], args: &RepairArgs) -> Result<()> {
    let mode = if args.keep { RepairMode::KeepOffset } else { RepairMode::ReadAgain };
    let wanted = |position: &StoredPosition| {
        args.all_outside
            || (args.consumer.as_deref(), args.topic.as_deref(), args.partition)
                == (Some(&position.consumer), Some(&position.topic), Some(position.partition))
    };
    if !args.all_outside {
        let named = known.iter().find(|known| wanted(&known.position));
        repair::check(named.context("there is no such position; see: triggers positions list")?, mode)?;
    }
    let repairs = plan(known, wanted, mode);
    // Said at the end: what is known to lie outside can be repaired all the same.
    let unknown = known.iter().filter(|known| known.log.is_none() && wanted(&known.position)).count();
    let reported = || match unknown {
        0 => Ok(()),
        _ => bail!(
            "of {unknown} positions it is not known whether they lie inside of their logs: triggers positions list"
        ),
    };
    if repairs.is_empty() {
        reported()?;
        return print::line("every position lies inside of its log; nothing is to be repaired");
    }
    for repair in &repairs {
        repair.lines().iter().try_for_each(|line| print::line(line))?;
    }
    if !args.yes {
        bail!("nothing was changed; to do this, run it again with --yes");
    }
    for repair in &repairs {
        let place = format!("{}[{}]", repair.topic, repair.partition);
        let moved: Vec<&StoredPosition> = repair.moved.iter().map(|known| &known.position).collect();
        let done = repair::repair(pool, repair.topic, repair.partition, &moved, repair.to, repair.log, repair.topic_id);
        match done.await.with_context(|| format!("{place} could not be repaired"))? {
            Some(_) if repair.log == Log::Same => print::line(&format!("repaired: {place}"))?,
            Some(log_epoch) => print::line(&format!("repaired: {place}, from here on in log epoch {log_epoch}"))?,
            None => bail!("{place} has moved meanwhile and was left; look again: triggers positions list"),
        }
    }
    reported()
}

async fn skip(kafka: &KafkaConfig, pool: &PgPool, known: &[CheckedPosition], args: &SkipArgs) -> Result<()> {
    let is_named = |known: &&CheckedPosition| {
        let StoredPosition { consumer, topic, partition, .. } = &known.position;
        (topic, *partition) == (&args.topic, args.partition)
            && args.consumer.as_ref().is_none_or(|name| name == consumer)
    };
    let named: Vec<&CheckedPosition> = known.iter().filter(is_named).collect();
    skip::check(&named, args.to)?;
    let positions: Vec<&StoredPosition> = named.iter().map(|known| &known.position).collect();
    positions.iter().try_for_each(|position| print::line(&skip::line(position, args.to)))?;
    if let Ok(Some(text)) = log_reader::undecodable_at(kafka, &args.topic, args.partition, args.to).await {
        print::warn(&format!("the batch at {} does not decode either, so reading stops there again: {text}", args.to))?;
    }
    if !args.yes {
        bail!("nothing was changed; to do this, run it again with --yes");
    }
    let place = format!("{}[{}]", args.topic, args.partition);
    if !skip::skip(pool, &positions, args.to).await.with_context(|| format!("{place} could not be skipped"))? {
        bail!("{place} has moved meanwhile and was left; look again: triggers positions list");
    }
    print::line(&format!("skipped: {place}, from here on read from {}", args.to))
}
