//! `triggers dlq show`: reason, headers and bytes of one dead letter.

use anyhow::{Result, bail};
use clap::Args;
use kafka::config::KafkaArgs;
use kafka::{KafkaConfig, Record};
use materializer::dead_letters::{DeadLetter, DeadLetterTopic, RecordPosition};
use serde_json::{Value, json};

use super::{Filters, find_dead_letters, list};
use crate::commands::print;

/// Options of `triggers dlq show`.
#[derive(Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// TOPIC/PARTITION/OFFSET of the rejected record, as `list` prints it
    position: RecordPosition,
    /// Print only the bytes of the record, unchanged
    #[arg(long)]
    raw: bool,
}

pub(super) async fn run(kafka: KafkaConfig, args: &ShowArgs) -> Result<()> {
    let selection = Filters::default().selection(&kafka, std::slice::from_ref(&args.position));
    let log = DeadLetterTopic::open(kafka).await?;
    let selected = find_dead_letters(&log, selection).await?;
    // The newest. There are two only if the topic was recreated.
    let Some(entry) = selected.first() else {
        bail!("there is no dead letter of {}; see: triggers dlq list", args.position);
    };
    let (mut newest, mut source) = (None, None);
    let mut reader = log.read_around([entry.newest, entry.source].into_iter())?;
    while let Some(dead_letter) = reader.next().await? {
        let Some(dead_letter) = dead_letter else { continue };
        newest = newest.or_else(|| (dead_letter.partition_offset() == entry.newest).then(|| dead_letter.clone()));
        source = source.or_else(|| (dead_letter.partition_offset() == entry.source).then_some(dead_letter));
    }
    let (Some(newest), Some(source)) = (newest, source) else {
        bail!("the dead letter of {} has just expired", args.position);
    };
    let record = read_record(&log, &source).await?;
    if args.raw {
        return match record.and_then(|record| record.value) {
            Some(value) => print::raw(&value),
            None => bail!(
                "no bytes of {}: {}",
                entry.position,
                if source.is_position_only() { TOO_LARGE } else { "its value is null" }
            ),
        };
    }
    let mut shown = list::row(entry, &newest);
    shown["rejected_at"] = json!(RecordPosition::of(&newest.refused_at).to_string());
    shown["too_large"] = json!(source.is_position_only());
    shown["key"] = record.as_ref().and_then(|record| record.key.as_deref()).map_or(Value::Null, text_or_hex);
    shown["headers"] =
        newest.record.headers.iter().map(|(name, value)| json!({"name": name, "value": text_or_hex(value)})).collect();
    shown["value"] = record.as_ref().and_then(|record| record.value.as_deref()).map_or(Value::Null, text_or_hex);
    print::json(&shown)
}

const TOO_LARGE: &str = "the record was too large for the topic of dead letters, and its own topic no longer has it";

/// The rejected record. If it was too large for a dead letter, it is read from its own topic.
async fn read_record(log: &DeadLetterTopic, dead_letter: &DeadLetter) -> Result<Option<Record>> {
    if dead_letter.is_position_only() {
        Ok(log.record_at(&dead_letter.refused_at).await?)
    } else {
        Ok(Some(dead_letter.record.clone()))
    }
}

/// `{"text": ...}`, or `{"hex": ...}` if the bytes are not UTF-8.
fn text_or_hex(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({"text": text}),
        Err(_) => json!({"hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()}),
    }
}
