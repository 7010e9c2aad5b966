//! The product's binary: its commands, and a key that its processes share.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;

/// A new value of `SEALING_KEY`.
#[must_use]
pub fn sealing_key() -> String {
    let key = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat();
    base64::engine::general_purpose::STANDARD.encode(key)
}

/// Runs a command of `binary` as an operator does, in exactly this environment. Returns its output if it failed.
///
/// # Errors
/// When it cannot be started, or takes longer than `timeout`.
pub async fn run_command(
    binary: &Path,
    environment: &[(String, String)],
    arguments: &[&str],
    timeout: Duration,
) -> anyhow::Result<Result<(), String>> {
    let mut command = tokio::process::Command::new(binary);
    command.args(arguments).env_clear().envs(environment.iter().cloned()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(timeout, command.output())
        .await
        .with_context(|| format!("triggers {arguments:?} took too long"))??;
    let text = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(if output.status.success() { Ok(()) } else { Err(format!("triggers {arguments:?} failed: {}", text())) })
}
