//! `triggers dlq redrive`: writes records to their topics again. What is written twice makes one event, so any part of
//! it may be repeated.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::{StreamExt as _, stream};
use http_server::Timestamp;
use kafka::KafkaConfig;
use kafka::config::KafkaArgs;
use kafka::producer::{Producer, ProducerRecord, ProducerSettings, PublishError};
use materializer::dead_letters::{
    DeadLetter, DeadLetterReader, DeadLetterTopic, FoundDeadLetter, PartitionOffset, RecordPosition, RedriveRecord,
    RedriveRefusal,
};

use super::{Filters, find, list};
use crate::commands::print;
use crate::commands::progress::Progress;

/// Records that are being written at once.
const IN_FLIGHT: usize = 32;
/// How long Kafka may take for one record.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Refusals that are written out.
const MAX_REPORTED: usize = 20;

/// Flags of `triggers dlq redrive`.
#[derive(Args)]
pub(super) struct RedriveArgs {
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// TOPIC/PARTITION/OFFSET of refused records, as `list` prints them
    #[arg(value_name = "PLACE")]
    places: Vec<RecordPosition>,
    #[command(flatten)]
    filters: Filters,
    /// Every dead letter that there is
    #[arg(long)]
    all: bool,
    /// Of those that match, the newest so many
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only print what would be written again
    #[arg(long)]
    dry_run: bool,
    /// Do it; needed wherever places are not named one by one
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(kafka: KafkaConfig, args: &RedriveArgs) -> Result<()> {
    if args.places.is_empty() && args.filters.is_empty() && !args.all {
        let message = "name places, or filters, or --all\n";
        clap::Error::raw(clap::error::ErrorKind::MissingRequiredArgument, message).exit();
    }
    let wanted = args.filters.wanted(&kafka, &args.places);
    let log = DeadLetterTopic::open(kafka.clone()).await?;
    let mut picks = find(&log, wanted).await?;
    picks.truncate(args.limit.map_or(usize::MAX, |limit| limit as usize));
    if picks.is_empty() {
        bail!("no dead letter matches; triggers dlq list shows them");
    }
    if args.dry_run {
        list::print(&log, &picks, None).await?;
        eprintln!("{} would be redriven", picks.len());
        return Ok(());
    }
    if args.places.is_empty() && !args.yes {
        bail!("{} dead letters match; add --yes to redrive them, or --dry-run to see them", picks.len());
    }
    Redriving::new(kafka, log)?.run(&picks).await
}

/// What becomes of a dead letter.
enum Outcome {
    Redriven(PartitionOffset),
    /// It cannot be, and the next one can.
    Refused(String),
    /// The next one would not fare better.
    Failed(String),
}

struct Redriving {
    kafka: KafkaConfig,
    log: DeadLetterTopic,
    producer: Producer,
    progress: Progress,
    /// Set at the first failure: nothing more is begun.
    stopped: AtomicBool,
}

impl Redriving {
    fn new(kafka: KafkaConfig, log: DeadLetterTopic) -> Result<Self> {
        let mut writing = kafka.clone();
        // In front, so that what the user says has the last word. What was small on the wire when it came is so again.
        let ours = [("message.max.bytes", "100000000"), ("compression.type", "gzip")];
        writing.properties.splice(0..0, ours.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let settings = ProducerSettings { delivery_timeout: DELIVERY_TIMEOUT, ..ProducerSettings::default() };
        let producer = Producer::new(&writing, settings).context("the Kafka producer could not be made")?;
        Ok(Self { kafka, log, producer, progress: Progress::new("redriven")?, stopped: AtomicBool::new(false) })
    }

    async fn run(self, picks: &[FoundDeadLetter]) -> Result<()> {
        let mut done: HashSet<PartitionOffset> = HashSet::with_capacity(picks.len());
        let (mut refused, mut failure) = (0_usize, None);
        {
            let wanted: HashMap<PartitionOffset, &FoundDeadLetter> =
                picks.iter().map(|pick| (pick.source, pick)).collect();
            let letters = self.log.read_around(wanted.keys().copied())?;
            // Taken one by one, in the order of the topic: records of one key go back in the order in which they were
            // refused.
            let ready = stream::unfold((letters, &self, &wanted), |(mut letters, this, wanted)| async move {
                let next = this.next(&mut letters, wanted).await?;
                Some((next, (letters, this, wanted)))
            });
            let write = |again: Result<RedriveRecord, Outcome>| async {
                match again {
                    Ok(again) => self.write(again).await,
                    Err(outcome) => outcome,
                }
            };
            let mut outcomes = Box::pin(ready.map(write).buffered(IN_FLIGHT));
            while let Some(outcome) = outcomes.next().await {
                match outcome {
                    Outcome::Redriven(at) => drop(done.insert(at)),
                    Outcome::Refused(reason) => {
                        refused += 1;
                        if refused <= MAX_REPORTED {
                            self.progress.say(&reason);
                        }
                    }
                    Outcome::Failed(reason) => {
                        // What is in flight comes to its end and is counted.
                        self.stopped.store(true, Ordering::Relaxed);
                        failure = failure.or(Some(reason));
                    }
                }
                self.progress.show(done.len() as u64, picks.len() as u64);
            }
        }
        self.progress.finish();
        let (redriven, total) = (done.len(), picks.len());
        print::line(&format!("{redriven} redriven"))?;
        if let Some(reason) = failure {
            let rest = picks.iter().filter(|pick| !done.contains(&pick.source)).map(|pick| pick.written_ms).min();
            let since =
                rest.and_then(Timestamp::from_millis).map(|time| format!(" with --since {time}")).unwrap_or_default();
            bail!(
                "{reason}; {redriven} of {total} were redriven and the rest is left: go on{since}, what is written twice makes one event"
            );
        }
        if refused > 0 {
            bail!("{refused} of {total} could not be redriven");
        }
        if redriven < total {
            bail!("{} of {total} have expired meanwhile", total - redriven);
        }
        Ok(())
    }

    /// The next record that is wanted; nothing at the end.
    async fn next(
        &self,
        letters: &mut DeadLetterReader,
        wanted: &HashMap<PartitionOffset, &FoundDeadLetter>,
    ) -> Option<Result<RedriveRecord, Outcome>> {
        while !self.stopped.load(Ordering::Relaxed) {
            match letters.next().await {
                Ok(Some(Some(letter))) => {
                    if let Some(pick) = wanted.get(&letter.partition_offset()) {
                        return Some(self.prepare(letter, pick).await);
                    }
                }
                Ok(Some(None)) => {}
                Ok(None) => return None,
                Err(error) => return Some(Err(Outcome::Failed(error.to_string()))),
            }
        }
        None
    }

    /// Puts the original record together, from the log itself where only its place is in the letter.
    async fn prepare(&self, letter: DeadLetter, pick: &FoundDeadLetter) -> Result<RedriveRecord, Outcome> {
        let refused = |refusal: RedriveRefusal| Outcome::Refused(refusal.to_string());
        letter.check_topic(&pick.position, &self.kafka.topics).map_err(refused)?;
        let mut of_the_log = None;
        if letter.is_position_only() {
            let read = self.log.record_at(&letter.refused_at).await;
            of_the_log = read.map_err(|error| Outcome::Failed(error.to_string()))?;
        }
        letter.redrive(pick.position.clone(), of_the_log).map_err(refused)
    }

    async fn write(&self, again: RedriveRecord) -> Outcome {
        let headers: Vec<(&str, &[u8])> =
            again.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let record = ProducerRecord {
            topic: &again.topic,
            key: again.key.as_deref(),
            value: again.value.as_deref(),
            headers: &headers,
        };
        match self.producer.publish(record).await {
            Ok(_) => Outcome::Redriven(again.partition_offset),
            Err(PublishError::Rejected(reason)) if again.is_large => {
                Outcome::Refused(format!("{}: {reason}", again.position))
            }
            Err(error) => Outcome::Failed(format!("{}: {error}", again.position)),
        }
    }
}
