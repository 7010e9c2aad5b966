//! How answers are shown: as JSON for scripts, as aligned columns for people.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use serde_json::Value;

/// Prints `value` as indented JSON.
pub fn json(value: &Value) -> Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Prints one line; a reader that has hung up (`| head`) is no error.
pub fn line(text: &str) -> Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Prints the rows of `array` (objects), columns by JSON pointer, aligned; as JSON lines when nobody watches.
pub fn table(array: &[Value], columns: &[(&str, &str)]) -> Result<()> {
    if !io::stdout().is_terminal() {
        return array.iter().try_for_each(|row| line(&row.to_string()));
    }
    let cell = |row: &Value, pointer: &str| match row.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let rows: Vec<Vec<String>> = array.iter().map(|row| columns.iter().map(|(_, pointer)| cell(row, pointer)).collect()).collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).chain([columns[i].0.len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let aligned = |cells: Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    line(&aligned(columns.iter().map(|(title, _)| *title).collect()))?;
    rows.iter().try_for_each(|row| line(&aligned(row.iter().map(String::as_str).collect())))
}
