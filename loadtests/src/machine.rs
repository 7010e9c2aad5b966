//! What the figures were measured on and with: machine, kernel, versions, commit. A fact that cannot be found is
//! "unknown".

use std::process::Command;

use serde::{Deserialize, Serialize};

/// The circumstances of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Circumstances {
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub version: String,
    /// Optimized or not: figures of an unoptimized generator count for nothing.
    pub optimized_generator: bool,
    pub commit: String,
    /// Whether the working tree differed from the commit.
    pub uncommitted_changes: bool,
    pub command: Vec<String>,
    /// Start, RFC 3339.
    pub started_at: String,
    /// Versions the parts tell about themselves.
    pub parts: std::collections::BTreeMap<String, String>,
}

/// Looks around.
pub fn circumstances() -> Circumstances {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let now = time::OffsetDateTime::now_utc();
    Circumstances {
        cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory_mib: memory.unwrap_or(0) / 1024,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        optimized_generator: !cfg!(debug_assertions),
        commit: git(&["rev-parse", "HEAD"]).unwrap_or_else(unknown),
        uncommitted_changes: git(&["status", "--porcelain", "--untracked-files=no"])
            .is_some_and(|text| !text.is_empty()),
        command: shown_command(std::env::args()),
        started_at: now.format(&time::format_description::well_known::Rfc3339).unwrap_or_else(|_| unknown()),
        parts: std::collections::BTreeMap::new(),
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The command line, without the folder of the binary and without secrets.
fn shown_command(arguments: impl Iterator<Item = String>) -> Vec<String> {
    const SECRETS: [&str; 3] = ["--key", "--operator-token", "--database-url"];
    let mut shown = vec!["loadtests".to_owned()];
    let mut hide_next = false;
    for argument in arguments.skip(1) {
        let name = argument.split('=').next().unwrap_or_default();
        let secret = SECRETS.contains(&name);
        shown.push(match (hide_next, secret && argument.contains('=')) {
            (true, _) => "(hidden)".to_owned(),
            (false, true) => format!("{name}=(hidden)"),
            (false, false) => argument.clone(),
        });
        hide_next = secret && !argument.contains('=') && !hide_next;
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_the_command_without_its_secrets() {
        let line = "/home/x/loadtests run --key s3cret --operator-token=t0ken --rate 5";
        let shown = shown_command(line.split(' ').map(str::to_owned)).join(" ");
        assert_eq!(shown, "loadtests run --key (hidden) --operator-token=(hidden) --rate 5");
    }
}
