//! Runs the binary: what it sends, what it counts, and its exit code.
//!
//! A stub replaces the product, because it must lose or double an event on request to show that the count notices it.
//! Kafka and PostgreSQL are real.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod bare_loops;
mod own_system;
mod peers;
mod run;
mod stub;

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tokio::process::Command;

/// Runs the binary with `arguments` and a report in `out`.
async fn bench(arguments: &[&str], out: &Path) -> (Output, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    for variable in ["TRIGGERS_URL", "TRIGGERS_API_KEY", "TRIGGERS_OPERATOR_TOKEN"] {
        command.env_remove(variable);
    }
    let output = command.args(arguments).arg("--out").arg(out).kill_on_drop(true).output().await.unwrap();
    let report =
        std::fs::read(out.join("report.json")).map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap());
    (output, report)
}

/// Asserts the exit code. The message has the output.
fn assert_code(output: &Output, expected: i32) {
    let printed = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(expected), "{printed}");
}
