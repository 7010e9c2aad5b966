//! `triggers dlq redrive`: writes records to their topics again. A record that is written twice is still one event, so
//! a redrive can be repeated.

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

use super::{Filters, find_dead_letters, list};
use crate::commands::print;
use crate::commands::progress::ProgressDisplay;

/// Largest number of records in flight.
const MAX_IN_FLIGHT: usize = 32;
/// Largest time until Kafka confirms a record.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest number of refusals that are printed; more are only counted.
const MAX_REPORTED: usize = 20;

/// Options of `triggers dlq redrive`.
#[derive(Args)]
pub(super) struct RedriveArgs {
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// TOPIC/PARTITION/OFFSET of rejected records, as `list` prints them
    #[arg(value_name = "POSITION")]
    positions: Vec<RecordPosition>,
    #[command(flatten)]
    filters: Filters,
    /// Redrive every dead letter
    #[arg(long)]
    all: bool,
    /// Redrive at most this number, the newest ones
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only print what would be redriven
    #[arg(long)]
    dry_run: bool,
    /// Really redrive; required unless positions are given
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(kafka: KafkaConfig, args: &RedriveArgs) -> Result<()> {
    if args.positions.is_empty() && args.filters.is_empty() && !args.all {
        let message = "give positions, filters, or --all\n";
        clap::Error::raw(clap::error::ErrorKind::MissingRequiredArgument, message).exit();
    }
    let selection = args.filters.selection(&kafka, &args.positions);
    let log = DeadLetterTopic::open(kafka.clone()).await?;
    let mut selected = find_dead_letters(&log, selection).await?;
    selected.truncate(args.limit.map_or(usize::MAX, |limit| limit as usize));
    if selected.is_empty() {
        bail!("no dead letter matches; see: triggers dlq list");
    }
    if args.dry_run {
        list::print(&log, &selected, None).await?;
        eprintln!("{} would be redriven", selected.len());
        return Ok(());
    }
    if args.positions.is_empty() && !args.yes {
        bail!("{} dead letters match; add --yes to redrive them, or --dry-run to see them", selected.len());
    }
    Redriver::new(kafka, log)?.run(&selected).await
}

/// Outcome of redriving one dead letter.
enum RedriveOutcome {
    Redriven(PartitionOffset),
    /// This record cannot be redriven; others can.
    Refused(String),
    /// Kafka failed, so the redrive stops.
    Failed(String),
}

struct Redriver {
    kafka: KafkaConfig,
    log: DeadLetterTopic,
    producer: Producer,
    progress: ProgressDisplay,
    /// Set at the first failure: no more records are written.
    stopped: AtomicBool,
}

impl Redriver {
    fn new(kafka: KafkaConfig, log: DeadLetterTopic) -> Result<Self> {
        let mut producer_config = kafka.clone();
        // First, so that properties of the user override them. Compressed as by its producer, a large record fits
        // again.
        let defaults = [("message.max.bytes", "100000000"), ("compression.type", "gzip")];
        producer_config.properties.splice(0..0, defaults.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let settings = ProducerSettings { delivery_timeout: DELIVERY_TIMEOUT, ..ProducerSettings::default() };
        let producer = Producer::new(&producer_config, settings).context("cannot create the Kafka producer")?;
        Ok(Self { kafka, log, producer, progress: ProgressDisplay::new("redriven")?, stopped: AtomicBool::new(false) })
    }

    async fn run(self, selected: &[FoundDeadLetter]) -> Result<()> {
        let mut done: HashSet<PartitionOffset> = HashSet::with_capacity(selected.len());
        let (mut refused, mut failure) = (0_usize, None);
        {
            let by_source: HashMap<PartitionOffset, &FoundDeadLetter> =
                selected.iter().map(|entry| (entry.source, entry)).collect();
            let reader = self.log.read_around(by_source.keys().copied())?;
            // In the order of the topic: records of one key are redriven in the order in which they were rejected.
            let ready = stream::unfold((reader, &self, &by_source), |(mut reader, this, by_source)| async move {
                let next = this.next(&mut reader, by_source).await?;
                Some((next, (reader, this, by_source)))
            });
            let write = |again: Result<RedriveRecord, RedriveOutcome>| async {
                match again {
                    Ok(again) => self.write(again).await,
                    Err(outcome) => outcome,
                }
            };
            let mut outcomes = Box::pin(ready.map(write).buffered(MAX_IN_FLIGHT));
            while let Some(outcome) = outcomes.next().await {
                match outcome {
                    RedriveOutcome::Redriven(at) => drop(done.insert(at)),
                    RedriveOutcome::Refused(reason) => {
                        refused += 1;
                        if refused <= MAX_REPORTED {
                            self.progress.print_line(&reason);
                        }
                    }
                    RedriveOutcome::Failed(reason) => {
                        // Records in flight are still awaited and counted.
                        self.stopped.store(true, Ordering::Relaxed);
                        failure = failure.or(Some(reason));
                    }
                }
                self.progress.show(done.len() as u64, selected.len() as u64);
            }
        }
        self.progress.finish();
        let (redriven, total) = (done.len(), selected.len());
        print::line(&format!("{redriven} redriven"))?;
        if let Some(reason) = failure {
            let rest =
                selected.iter().filter(|entry| !done.contains(&entry.source)).map(|entry| entry.written_ms).min();
            let since =
                rest.and_then(Timestamp::from_millis).map(|time| format!(" with --since {time}")).unwrap_or_default();
            bail!(
                "{reason}; {redriven} of {total} were redriven; to continue, repeat the command{since} \
                 (a record that is redriven twice is still one event)"
            );
        }
        if refused > 0 {
            bail!("{refused} of {total} could not be redriven");
        }
        if redriven < total {
            bail!("{} of {total} were not redriven: their dead letters have expired meanwhile", total - redriven);
        }
        Ok(())
    }

    /// The next record to write; `None` at the end, or after a failure.
    async fn next(
        &self,
        reader: &mut DeadLetterReader,
        by_source: &HashMap<PartitionOffset, &FoundDeadLetter>,
    ) -> Option<Result<RedriveRecord, RedriveOutcome>> {
        while !self.stopped.load(Ordering::Relaxed) {
            match reader.next().await {
                Ok(Some(Some(dead_letter))) => {
                    if let Some(entry) = by_source.get(&dead_letter.partition_offset()) {
                        return Some(self.prepare(dead_letter, entry).await);
                    }
                }
                Ok(Some(None)) => {}
                Ok(None) => return None,
                Err(error) => return Some(Err(RedriveOutcome::Failed(error.to_string()))),
            }
        }
        None
    }

    /// Restores the original record. If it was too large for a dead letter, it is read from its own topic.
    async fn prepare(&self, dead_letter: DeadLetter, entry: &FoundDeadLetter) -> Result<RedriveRecord, RedriveOutcome> {
        let refused = |refusal: RedriveRefusal| RedriveOutcome::Refused(refusal.to_string());
        dead_letter.check_topic(&entry.position, &self.kafka.topics).map_err(refused)?;
        let mut of_the_log = None;
        if dead_letter.is_position_only() {
            let read = self.log.record_at(&dead_letter.refused_at).await;
            of_the_log = read.map_err(|error| RedriveOutcome::Failed(error.to_string()))?;
        }
        dead_letter.redrive(entry.position.clone(), of_the_log).map_err(refused)
    }

    async fn write(&self, again: RedriveRecord) -> RedriveOutcome {
        let headers: Vec<(&str, &[u8])> =
            again.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let record = ProducerRecord {
            topic: &again.topic,
            key: again.key.as_deref(),
            value: again.value.as_deref(),
            headers: &headers,
        };
        match self.producer.publish(record).await {
            Ok(_) => RedriveOutcome::Redriven(again.partition_offset),
            Err(PublishError::Rejected(reason)) if again.is_large => {
                RedriveOutcome::Refused(format!("{}: {reason}", again.position))
            }
            Err(error) => RedriveOutcome::Failed(format!("{}: {error}", again.position)),
        }
    }
}
