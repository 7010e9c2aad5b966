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
    let mut selected = find_dead_letters(&log, selection).await?;
    let found = selected.len();
    if found == 0 {
        eprintln!("no dead letter matches");
    }
    if !args.all {
        selected.truncate(args.limit as usize);
    }
    print(&log, &selected, args.output).await?;
    if selected.len() < found {
        eprintln!("{} of {found} dead letters shown; --all shows all", selected.len());
    }
    Ok(())
}

/// Prints a row for each dead letter: the newest first, or in the order of the topic if there are many.
pub(super) async fn print(log: &DeadLetterTopic, selected: &[FoundDeadLetter], output: Option<Output>) -> Result<()> {
    let by_offset: HashMap<PartitionOffset, &FoundDeadLetter> =
        selected.iter().map(|entry| (entry.newest, entry)).collect();
    let mut reader = log.read_around(by_offset.keys().copied())?;
    let mut rows: Vec<(i64, Value)> = Vec::new();
    let limit = if selected.len() <= 10 * ROWS_PER_TABLE { selected.len() } else { ROWS_PER_TABLE };
    while let Some(dead_letter) = reader.next().await? {
        let Some(dead_letter) = dead_letter else { continue };
        if let Some(entry) = by_offset.get(&dead_letter.partition_offset()) {
            rows.push((entry.written_ms, row(entry, &dead_letter)));
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
pub(super) fn row(entry: &FoundDeadLetter, dead_letter: &DeadLetter) -> Value {
    json!({
        "position": entry.position.to_string(),
        "topic": entry.position.topic,
        "partition": entry.position.partition,
        "offset": entry.position.offset,
        "time": Timestamp::from_millis(entry.written_ms).map(|time| time.to_string()),
        "first_seen": entry.first_seen_ms.and_then(Timestamp::from_millis).map(|time| time.to_string()),
        "class": dead_letter.class(),
        "message": dead_letter.message(),
        "organization": dead_letter.organization().map(|id| id.to_string()),
        "bytes": dead_letter.record.value.as_ref().map(Vec::len),
        "count": entry.count,
    })
}
