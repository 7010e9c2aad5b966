//! `triggers dlq`: lists and shows dead letters, and writes their records to their topics again.
//!
//! `materializer::dead_letters` reads dead letters and decides which of them are of the same record.

mod list;
mod redrive;
mod show;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use kafka::KafkaConfig;
use kafka::config::KafkaArgs;
use materializer::dead_letters::{DeadLetterFilter, DeadLetterIndex, DeadLetterTopic, FoundDeadLetter, RecordPosition};
use schemas::ids::OrgId;
use schemas::unix_time::to_millis;
use time::OffsetDateTime;

use super::time_argument::parse_time;
use crate::local_system::LocalSystemArgs;

/// Options of `triggers dlq`.
#[derive(Args)]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    action: DlqAction,
    #[command(flatten)]
    local: LocalSystemArgs,
}

#[derive(Subcommand)]
enum DlqAction {
    /// List dead letters, the newest first
    List(Box<list::ListArgs>),
    /// Show a dead letter: its reason, and headers and bytes of its record
    Show(Box<show::ShowArgs>),
    /// Write records to their topics again; a record that is redriven twice is still one event
    Redrive(Box<redrive::RedriveArgs>),
}

/// Options that select dead letters.
#[derive(Args, Clone, Default)]
pub(super) struct Filters {
    /// Only with this class of the newest reason: malformed, invalid_event, unknown_organization, ...
    #[arg(long)]
    class: Option<String>,
    /// Only records with this organization as key
    #[arg(long, value_name = "ID")]
    org: Option<OrgId>,
    /// Only records of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only records of this partition
    #[arg(long)]
    partition: Option<i32>,
    /// Only dead letters that were written at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<OffsetDateTime>,
    /// Only dead letters that were written before this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<OffsetDateTime>,
}

impl Filters {
    fn is_empty(&self) -> bool {
        let Self { class, org, topic, partition, since, until } = self;
        class.is_none() && org.is_none() && topic.is_none() && partition.is_none() && since.is_none() && until.is_none()
    }

    /// The selection of [`Filters`], restricted to `positions` unless that is empty.
    fn selection(&self, kafka: &KafkaConfig, positions: &[RecordPosition]) -> DeadLetterFilter {
        DeadLetterFilter {
            class: self.class.clone(),
            org: self.org,
            topic: self.topic.as_ref().map(|name| full_name(kafka, name)),
            partition: self.partition,
            since_ms: self.since.map(to_millis),
            until_ms: self.until.map(to_millis),
            positions: positions
                .iter()
                .map(|position| RecordPosition { topic: full_name(kafka, &position.topic), ..position.clone() })
                .collect(),
        }
    }
}

/// The full name of a topic, which may be given with or without the deployment's prefix.
fn full_name(kafka: &KafkaConfig, name: &str) -> String {
    let topics = &kafka.topics;
    let has_suffix =
        |topic: &&String| topic.strip_suffix(name).is_some_and(|prefix| topics.dead_letters.starts_with(prefix));
    let topic = [&topics.events, &topics.acks, &topics.deliveries].into_iter().find(has_suffix);
    topic.map_or_else(|| name.to_owned(), String::clone)
}

pub(super) async fn run(args: DlqArgs) -> Result<()> {
    let kafka = |flags: &KafkaArgs| args.local.kafka(flags);
    match &args.action {
        DlqAction::List(list) => list::run(kafka(&list.kafka)?, list).await,
        DlqAction::Show(show) => show::run(kafka(&show.kafka)?, show).await,
        DlqAction::Redrive(redrive) => redrive::run(kafka(&redrive.kafka)?, redrive).await,
    }
}

/// Reads all dead letters and returns the selected ones, the newest first.
///
/// # Errors
/// A selected position has no dead letter, or more match than can be held.
async fn find_dead_letters(log: &DeadLetterTopic, selection: DeadLetterFilter) -> Result<Vec<FoundDeadLetter>> {
    let mut index = DeadLetterIndex::new(selection);
    let mut foreign = 0_u64;
    let mut reader = log.read_all()?;
    while let Some(found) = reader.next().await? {
        match found {
            Some(dead_letter) => index.add(&dead_letter)?,
            None => foreign += 1,
        }
    }
    if foreign > 0 {
        eprintln!("skipped {foreign} records of {} that are not dead letters", log.topic());
    }
    if let Some(position) = index.missing().first() {
        bail!("there is no dead letter of {position}; see: triggers dlq list");
    }
    let classes = index.classes();
    let selected = index.into_found();
    if selected.is_empty() && !classes.is_empty() {
        let classes: Vec<&str> = classes.iter().map(AsRef::as_ref).collect();
        eprintln!("no dead letter has that class; there are: {}", classes.join(", "));
    }
    Ok(selected)
}
