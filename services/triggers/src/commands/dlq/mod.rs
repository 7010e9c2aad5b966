//! `triggers dlq`: the dead letters, to be looked at and to be written to their topics again.
//!
//! `list`, `show` and `redrive` are the three actions. What a dead letter is, which of them are the same, and reading
//! them live in `materializer::dead_letters`.

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
use time::format_description::well_known::Rfc3339;

use crate::local::LocalArgs;

/// Flags of `triggers dlq`.
#[derive(Args)]
pub(crate) struct DlqArgs {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    local: LocalArgs,
}

#[derive(Subcommand)]
enum Action {
    /// One line per dead letter, the newest first
    List(Box<list::ListArgs>),
    /// Everything about one dead letter: reason, headers, the record's bytes
    Show(Box<show::ShowArgs>),
    /// Write records to their topics again; twice makes one event
    Redrive(Box<redrive::RedriveArgs>),
}

/// Which dead letters.
#[derive(Args, Clone, Default)]
pub(super) struct Filters {
    /// Only of this class, by the newest reason: malformed, invalid_event, unknown_organization, ...
    #[arg(long)]
    class: Option<String>,
    /// Only with this organization as key
    #[arg(long, value_name = "ID")]
    org: Option<OrgId>,
    /// Only of records of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only of records of this partition
    #[arg(long)]
    partition: Option<i32>,
    /// Only dead letters that were written at or after this time, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<OffsetDateTime>,
    /// Only dead letters that were written before this time, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<OffsetDateTime>,
}

impl Filters {
    fn is_empty(&self) -> bool {
        let Self { class, org, topic, partition, since, until } = self;
        class.is_none() && org.is_none() && topic.is_none() && partition.is_none() && since.is_none() && until.is_none()
    }

    fn wanted(&self, kafka: &KafkaConfig, places: &[RecordPosition]) -> DeadLetterFilter {
        DeadLetterFilter {
            class: self.class.clone(),
            org: self.org,
            topic: self.topic.as_ref().map(|name| full_name(kafka, name)),
            partition: self.partition,
            since_ms: self.since.map(to_millis),
            until_ms: self.until.map(to_millis),
            positions: places
                .iter()
                .map(|place| RecordPosition { topic: full_name(kafka, &place.topic), ..place.clone() })
                .collect(),
        }
    }
}

fn moment(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "must be a time like 2026-11-21T09:00:00Z".to_owned())
}

/// A topic by the name that it has in the cluster, or without the deployment's prefix.
fn full_name(kafka: &KafkaConfig, name: &str) -> String {
    let topics = &kafka.topics;
    let has_suffix =
        |topic: &&String| topic.strip_suffix(name).is_some_and(|prefix| topics.dead_letters.starts_with(prefix));
    let known = [&topics.events, &topics.acks, &topics.deliveries].into_iter().find(has_suffix);
    known.map_or_else(|| name.to_owned(), String::clone)
}

pub(super) async fn run(args: DlqArgs) -> Result<()> {
    let kafka = |flags: &KafkaArgs| args.local.kafka(flags);
    match &args.action {
        Action::List(list) => list::run(kafka(&list.kafka)?, list).await,
        Action::Show(show) => show::run(kafka(&show.kafka)?, show).await,
        Action::Redrive(redrive) => redrive::run(kafka(&redrive.kafka)?, redrive).await,
    }
}

/// Reads all dead letters that there are now, and finds those that are wanted, the newest first. Fails when a named
/// place has none.
async fn find(log: &DeadLetterTopic, wanted: DeadLetterFilter) -> Result<Vec<FoundDeadLetter>> {
    let mut index = DeadLetterIndex::new(wanted);
    let mut foreign = 0_u64;
    let mut letters = log.read_all()?;
    while let Some(found) = letters.next().await? {
        match found {
            Some(letter) => index.add(&letter)?,
            None => foreign += 1,
        }
    }
    if foreign > 0 {
        eprintln!("{foreign} records on {} are no dead letters and were skipped", log.topic());
    }
    if let Some(place) = index.missing().first() {
        bail!("there is no dead letter of {place}");
    }
    let classes = index.classes();
    let picks = index.into_found();
    if picks.is_empty() && !classes.is_empty() {
        let classes: Vec<&str> = classes.iter().map(AsRef::as_ref).collect();
        eprintln!("none is of that class; there are: {}", classes.join(", "));
    }
    Ok(picks)
}
