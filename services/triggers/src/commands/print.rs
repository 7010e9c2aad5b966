//! Output of commands: JSON for scripts, aligned columns for people.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// Prints `value` as indented JSON.
pub(super) fn json(value: &Value) -> Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Prints one line. A closed pipe (`| head`) ends the process without an error.
pub(super) fn line(text: &str) -> Result<()> {
    exit_on_closed_pipe(writeln!(io::stdout(), "{text}"))
}

/// Writes bytes unchanged.
pub(super) fn raw(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout();
    exit_on_closed_pipe(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

fn exit_on_closed_pipe(outcome: io::Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Format of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Aligned columns
    Table,
    /// One JSON object per line
    Json,
}

/// Prints a warning to standard error, so that scripts can read standard output.
pub(super) fn warn(text: &str) -> Result<()> {
    Ok(writeln!(io::stderr(), "triggers: {text}")?)
}

/// Prints the objects of `array`: on a terminal as aligned columns, given by JSON pointers, else as JSON lines.
pub(super) fn table(array: &[Value], columns: &[(&str, &str)]) -> Result<()> {
    rows(array, columns, None)
}

/// Like [`table`], but the user may choose the format.
pub(super) fn rows(array: &[Value], columns: &[(&str, &str)], output: Option<Output>) -> Result<()> {
    let output = output.unwrap_or_else(|| if io::stdout().is_terminal() { Output::Table } else { Output::Json });
    if output == Output::Json {
        return array.iter().try_for_each(|row| line(&row.to_string()));
    }
    line(&aligned(array, columns))
}

/// One line for each row, two spaces between columns; no borders, no colors.
fn aligned(array: &[Value], columns: &[(&str, &str)]) -> String {
    // Control characters of a payload or a name must not reach the terminal.
    let shown = |text: &str| text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>();
    let cell = |row: &Value, pointer: &str| match row.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => shown(text),
        Some(other) => other.to_string(),
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|(title, _)| *title));
    table.add_rows(array.iter().map(|row| columns.iter().map(|(_, pointer)| cell(row, pointer)).collect::<Vec<_>>()));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: [(&str, &str); 3] = [("ID", "/id"), ("NAME", "/name"), ("STATE", "/state")];

    #[test]
    fn columns_are_aligned_without_borders() {
        let rows = [
            json!({"id": 1, "name": "Acme", "state": null}),
            json!({"id": 12345, "name": "\u{65e5}\u{672c}", "state": "open"}),
            json!({"id": 2, "name": "x\u{1b}[31m\ny"}),
        ];
        let lines = [
            "ID     NAME      STATE",
            "1      Acme      -",
            "12345  \u{65e5}\u{672c}      open",
            "2      x\u{fffd}[31m\u{fffd}y  -",
        ];
        assert_eq!(aligned(&rows, &COLUMNS), lines.join("\n"));
    }

    #[test]
    fn a_table_without_rows_is_its_header() {
        assert_eq!(aligned(&[], &COLUMNS), "ID  NAME  STATE");
    }
}
