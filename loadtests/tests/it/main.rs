//! The binary from outside: what it sends, what it counts, what it answers with its exit code.
//!
//! The product is stood in for by a small server that can be told to lose or double an event: only so can it be seen
//! that the count notices. Kafka and PostgreSQL are real.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bare;
mod run;
mod stub;

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tokio::process::Command;

/// Runs the binary with `arguments` and a report in `out`.
async fn loadtests(arguments: &[&str], out: &Path) -> (Output, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtests"));
    for variable in ["TRIGGERS_URL", "TRIGGERS_API_KEY", "TRIGGERS_OPERATOR_TOKEN"] {
        command.env_remove(variable);
    }
    let output = command.args(arguments).arg("--out").arg(out).kill_on_drop(true).output().await.unwrap();
    let report =
        std::fs::read(out.join("report.json")).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap());
    (output, report)
}

/// The exit code, with everything that was said should it not be the expected one.
fn assert_code(output: &Output, expected: i32) {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(expected), "{said}");
}
