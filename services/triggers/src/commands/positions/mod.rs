//! `triggers positions`: where the consumers stand on the log, and mending positions that lie outside of it. What a
//! mending does is decided in `plan`; how a position gets outside is told in docs/operating.md.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use materializer::rebuild::REPLAY;
use platform::config::{KafkaArgs, PostgresArgs};
use platform::fence::mend::{self, Log, StoredPosition};
use platform::kafka::KafkaConfig;
use platform::kafka::positions::look;
use platform::postgres;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;

use self::plan::{How, Known, plan};
use super::print;
use crate::local::LocalArgs;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Flags of `triggers positions`.
#[derive(Args)]
pub struct PositionsArgs {
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
    Mend(MendArgs),
}

#[derive(Args)]
struct Connections {
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    postgres: PostgresArgs,
}

#[derive(Args)]
struct MendArgs {
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

/// Runs it.
pub async fn run(args: PositionsArgs) -> Result<()> {
    match args.action {
        Action::List(connections) => {
            let (_, known) = connections.look(&args.local).await?;
            list(&known)
        }
        Action::Mend(mending) => {
            let (pool, known) = mending.connections.look(&args.local).await?;
            mend(&pool, &known, &mending).await
        }
    }
}

impl Connections {
    async fn look(&self, local: &LocalArgs) -> Result<(PgPool, Vec<Known>)> {
        let kafka = local.kafka(&self.kafka)?;
        let pool = postgres::connect(&local.postgres(&self.postgres)?).context("DATABASE_URL")?;
        postgres::reach(&pool).await.map_err(anyhow::Error::msg)?;
        let mut positions = mend::positions(&pool).await.context("the positions could not be read")?;
        // Noted down by a replay for itself, and left where it was interrupted: the next one begins elsewhere.
        positions.retain(|position| position.consumer != REPLAY);
        let known = with_bounds(&kafka, positions).await?;
        Ok((pool, known))
    }
}

/// Asks the brokers for each position's log. Of a topic that is not there nothing is known.
async fn with_bounds(kafka: &KafkaConfig, positions: Vec<StoredPosition>) -> Result<Vec<Known>> {
    let looked = match look(kafka, &positions, TIMEOUT).await {
        Ok(looked) => looked,
        Err(error) => {
            print::warn(&format!("Kafka does not answer, so nothing is known of the logs: {error}"))?;
            return Ok(positions.into_iter().map(|position| Known { position, log: None }).collect());
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
    Ok(positions.into_iter().zip(looked).map(|(position, log)| Known { position, log: log.ok() }).collect())
}

fn list(known: &[Known]) -> Result<()> {
    let line = |known: &Known| -> Value {
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

async fn mend(pool: &PgPool, known: &[Known], args: &MendArgs) -> Result<()> {
    let how = if args.keep { How::Keep } else { How::AsItIs };
    let wanted = |position: &StoredPosition| {
        args.all_outside
            || (args.consumer.as_deref(), args.topic.as_deref(), args.partition)
                == (Some(&position.consumer), Some(&position.topic), Some(position.partition))
    };
    if !args.all_outside {
        let named = known.iter().find(|known| wanted(&known.position));
        plan::check(named.context("there is no such position; see: triggers positions list")?, how)?;
    }
    let mendings = plan(known, wanted, how);
    // Said at the end: what is known to lie outside can be mended all the same.
    let unknown = known.iter().filter(|known| known.log.is_none() && wanted(&known.position)).count();
    let told = || match unknown {
        0 => Ok(()),
        _ => bail!(
            "of {unknown} positions it is not known whether they lie inside of their logs: triggers positions list"
        ),
    };
    if mendings.is_empty() {
        told()?;
        return print::line("every position lies inside of its log; nothing is to be mended");
    }
    for mending in &mendings {
        mending.lines().iter().try_for_each(|line| print::line(line))?;
    }
    if !args.yes {
        bail!("nothing was changed; to do this, run it again with --yes");
    }
    for mending in &mendings {
        let place = format!("{}[{}]", mending.topic, mending.partition);
        let moved: Vec<&StoredPosition> = mending.moved.iter().map(|known| &known.position).collect();
        let done =
            mend::mend(pool, mending.topic, mending.partition, &moved, mending.to, mending.log, mending.topic_id);
        match done.await.with_context(|| format!("{place} could not be mended"))? {
            Some(_) if mending.log == Log::Same => print::line(&format!("mended: {place}"))?,
            Some(log_epoch) => print::line(&format!("mended: {place}, from here on in log epoch {log_epoch}"))?,
            None => bail!("{place} has moved meanwhile and was left; look again: triggers positions list"),
        }
    }
    told()
}
