//! How answers are shown: as JSON for scripts, as aligned columns for people.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use clap::ValueEnum;
use serde_json::Value;

/// Prints `value` as indented JSON.
pub fn json(value: &Value) -> Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Prints one line; a reader that has hung up (`| head`) is no error.
pub fn line(text: &str) -> Result<()> {
    written(writeln!(io::stdout(), "{text}"))
}

/// Writes bytes as they are.
pub fn raw(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout();
    written(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

fn written(outcome: io::Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// How rows are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Aligned columns
    Table,
    /// One JSON object per line
    Json,
}

/// Prints one line to standard error, beside what a script reads.
pub fn warn(text: &str) -> Result<()> {
    Ok(writeln!(io::stderr(), "triggers: {text}")?)
}

/// Prints the rows of `array` (objects), columns by JSON pointer, aligned; as JSON lines when nobody watches.
pub fn table(array: &[Value], columns: &[(&str, &str)]) -> Result<()> {
    rows(array, columns, None)
}

/// The same, with the choice left to the user.
pub fn rows(array: &[Value], columns: &[(&str, &str)], output: Option<Output>) -> Result<()> {
    let output = output.unwrap_or_else(|| if io::stdout().is_terminal() { Output::Table } else { Output::Json });
    if output == Output::Json {
        return array.iter().try_for_each(|row| line(&row.to_string()));
    }
    // What came from a stranger must not reach the terminal as an order to it.
    let shown = |text: &str| text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>();
    let cell = |row: &Value, pointer: &str| match row.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => shown(text),
        Some(other) => other.to_string(),
    };
    let rows: Vec<Vec<String>> =
        array.iter().map(|row| columns.iter().map(|(_, pointer)| cell(row, pointer)).collect()).collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).chain([columns[i].0.len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let aligned = |cells: Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    line(&aligned(columns.iter().map(|(title, _)| *title).collect()))?;
    rows.iter().try_for_each(|row| line(&aligned(row.iter().map(String::as_str).collect())))
}
