//! The environment of a run, for its report: machine, kernel, versions, commit, command line. A fact that cannot be
//! found is "unknown".

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Options whose values do not appear in a report.
const SECRET_OPTIONS: [&str; 3] = ["--key", "--operator-token", "--database-url"];

/// Where and with what a run was made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are clear")]
pub struct RunEnvironment {
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    pub version: String,
    /// Whether the load generator is an optimized build. Latencies of an unoptimized one are meaningless.
    pub optimized_generator: bool,
    pub commit: String,
    /// Whether the working tree differed from the commit.
    pub uncommitted_changes: bool,
    /// The command line, without secrets.
    pub command: Vec<String>,
    /// Start of the run, RFC 3339.
    pub started_at: String,
    /// Versions of the programs under test, by name.
    pub versions: BTreeMap<String, String>,
}

impl RunEnvironment {
    /// Detects the environment of this process. `versions` is left empty.
    #[must_use]
    pub fn detect() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let memory =
            field(&read("/proc/meminfo"), "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory.unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            optimized_generator: !cfg!(debug_assertions),
            commit: git(&["rev-parse", "HEAD"]).unwrap_or_else(unknown),
            uncommitted_changes: git(&["status", "--porcelain", "--untracked-files=no"])
                .is_some_and(|text| !text.is_empty()),
            command: without_secrets(std::env::args()),
            started_at: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_else(|_| unknown()),
            versions: BTreeMap::new(),
        }
    }
}

/// The value of a line `name: value`.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The command line, without the folder of the program and without secrets.
fn without_secrets(mut arguments: impl Iterator<Item = String>) -> Vec<String> {
    let program = arguments.next().unwrap_or_default();
    let program = Path::new(&program).file_name().map_or_else(unknown, |name| name.to_string_lossy().into_owned());
    let mut shown = vec![program];
    let mut hide_next = false;
    for argument in arguments {
        let name = argument.split('=').next().unwrap_or_default();
        let is_secret = SECRET_OPTIONS.contains(&name);
        shown.push(match (hide_next, is_secret && argument.contains('=')) {
            (true, _) => "(hidden)".to_owned(),
            (false, true) => format!("{name}=(hidden)"),
            (false, false) => argument.clone(),
        });
        hide_next = is_secret && !argument.contains('=') && !hide_next;
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_the_command_without_its_secrets() {
        let line = "/home/x/bench run --key s3cret --operator-token=t0ken --rate 5";
        let shown = without_secrets(line.split(' ').map(str::to_owned)).join(" ");
        assert_eq!(shown, "bench run --key (hidden) --operator-token=(hidden) --rate 5");
    }
}
