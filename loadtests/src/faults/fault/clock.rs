//! The clock of all roles steps by an hour while they run, by libfaketime, if it is installed. Their monotonic clock
//! goes on, as it would.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{NotHere, Struck, Times, struck};
use crate::faults::system::System;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// An hour back.
    Back,
    /// An hour forth.
    Forth,
}

pub(super) fn not_here() -> Option<NotHere> {
    library().is_none().then(|| NotHere("libfaketime is not installed (Debian: libfaketime)".to_owned()))
}

/// The library for programs with threads, where Debian puts it.
fn library() -> Option<PathBuf> {
    let folders =
        std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    folders.chain([PathBuf::from("/usr/lib/faketime/libfaketimeMT.so.1")]).find(|path| path.exists())
}

/// The clock stays where it stepped to: who waits by it must not wait for the hour, and recovery is that of processes
/// that go on.
pub(super) async fn strike(system: &System, step: Step, times: Times) -> anyhow::Result<Struck> {
    let began = Instant::now();
    let file = system.shape.folder.join("clock");
    set(&file, "+0")?;
    let environment = [
        ("LD_PRELOAD", library().unwrap_or_default().display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_DONT_RESET", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    let wrong = system.fleet.restart_all(&environment).await?;
    // They have read the time that is to step.
    tokio::time::sleep(times.down).await;
    set(&file, if step == Step::Back { "-1h" } else { "+1h" })?;
    tokio::time::sleep(times.kept).await;
    Ok(Struck { wrong, ..struck(began) })
}

/// The roles go on by the machine's own clock. Answers who did not end in order.
pub(super) async fn clean_up(system: &System) -> anyhow::Result<Vec<String>> {
    system.fleet.restart_all(&[]).await
}

/// Replaced as a whole: a reader must not meet half a line.
fn set(file: &Path, offset: &str) -> std::io::Result<()> {
    let next = file.with_extension("next");
    std::fs::write(&next, format!("{offset}\n"))?;
    std::fs::rename(next, file)
}
