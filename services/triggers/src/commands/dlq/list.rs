//! `triggers dlq list`: one line for each distinct dead letter.

use std::collections::HashMap;

use anyhow::Result;
use clap::Args;
use http_server::Timestamp;
use kafka::KafkaConfig;
use kafka::config::KafkaArgs;
use materializer::dead_letters::{DeadLetter, DeadLetterTopic, FoundDeadLetter, PartitionOffset};
use serde_json::{Value, json};

use super::{Filters, find_dead_letters};
use crate::commands::print::{self, Output};

/// Rows that are aligned and printed together.
const ROWS_PER_TABLE: usize = 1000;
const COLUMNS: &[(&str, &str)] = &[
    ("POSITION", "/position"),
    ("TIME", "/time"),
    ("CLASS", "/class"),
    ("ORGANIZATION", "/organization"),
    ("REASON", "/message"),
];

/// Options of `triggers dlq list`.
#[derive(Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    pub kafka: KafkaArgs,
    #[command(flatten)]
    filters: Filters,
    /// Number of dead letters, the newest ones
    #[arg(long, default_value_t = 100, conflicts_with = "all",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Print all dead letters, in the order of the topic
    #[arg(long)]
    all: bool,
    /// Format of the output; default: table on a terminal, else json
    #[arg(long, value_enum)]
    output: Option<Output>,
}

pub(super) async fn run(kafka: KafkaConfig, args: &ListArgs) -> Result<()> {
    let selection = args.filters.selection(&kafka, &[]);
    let log = DeadLetterTopic::open(kafka).await?;
    let mut picks = find_dead_letters(&log, selection).await?;
    let found = picks.len();
    if found == 0 {
        eprintln!("no dead letter matches");
    }
    if !args.all {
        picks.truncate(args.limit as usize);
    }
    print(&log, &picks, args.output).await?;
    if picks.len() < found {
        eprintln!("{} of {found} dead letters shown; --all shows all", picks.len());
    }
    Ok(())
}

/// Prints a row for each dead letter: the newest first, or in the order of the topic if there are many.
pub(super) async fn print(log: &DeadLetterTopic, picks: &[FoundDeadLetter], output: Option<Output>) -> Result<()> {
    let by_letter: HashMap<PartitionOffset, &FoundDeadLetter> = picks.iter().map(|pick| (pick.newest, pick)).collect();
    let mut letters = log.read_around(by_letter.keys().copied())?;
    let mut rows: Vec<(i64, Value)> = Vec::new();
    let limit = if picks.len() <= 10 * ROWS_PER_TABLE { picks.len() } else { ROWS_PER_TABLE };
    while let Some(letter) = letters.next().await? {
        let Some(letter) = letter else { continue };
        if let Some(pick) = by_letter.get(&letter.partition_offset()) {
            rows.push((pick.written_ms, row(pick, &letter)));
        }
        if rows.len() >= limit {
            print_rows(&mut rows, output)?;
        }
    }
    print_rows(&mut rows, output)
}

fn print_rows(rows: &mut Vec<(i64, Value)>, output: Option<Output>) -> Result<()> {
    rows.sort_by_key(|(written_ms, _)| std::cmp::Reverse(*written_ms));
    let values: Vec<Value> = rows.drain(..).map(|(_, value)| value).collect();
    if values.is_empty() { Ok(()) } else { print::rows(&values, COLUMNS, output) }
}

/// A dead letter as one row.
pub(super) fn row(pick: &FoundDeadLetter, letter: &DeadLetter) -> Value {
    json!({
        "position": pick.position.to_string(),
        "topic": pick.position.topic,
        "partition": pick.position.partition,
        "offset": pick.position.offset,
        "time": Timestamp::from_millis(pick.written_ms).map(|time| time.to_string()),
        "first_seen": pick.first_seen_ms.and_then(Timestamp::from_millis).map(|time| time.to_string()),
        "class": letter.class(),
        "message": letter.message(),
        "organization": letter.organization().map(|id| id.to_string()),
        "bytes": letter.record.value.as_ref().map(Vec::len),
        "letters": pick.count,
    })
}
