//! The schema of a database as text, to compare two of them.

use std::process::Command;

use crate::tools;

/// What `pg_dump` says of the database's schema, without comments, settings and blank lines. Tables that match one of
/// the `excluded` patterns are left out.
///
/// # Panics
/// When `pg_dump` fails.
pub fn dump_schema(database_url: &str, excluded: &[&str]) -> String {
    let program = tools::postgres(None).unwrap_or_else(|error| panic!("{error}")).folder.join("pg_dump");
    let output = Command::new(program)
        .args(["--schema-only", "--no-owner", "--no-privileges"])
        .args(excluded.iter().map(|pattern| format!("--exclude-table={pattern}")))
        .arg(database_url)
        .output()
        .unwrap_or_else(|error| panic!("cannot run pg_dump: {error}"));
    assert!(output.status.success(), "pg_dump failed: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let is_noise = |line: &str| {
        line.is_empty()
            || line.starts_with("--")
            || line.starts_with("SET ")
            || line.starts_with("SELECT pg_catalog.set_config")
            || line.starts_with('\\')
    };
    text.lines().filter(|line| !is_noise(line)).map(|line| format!("{line}\n")).collect()
}
