//! The wall clock of all roles steps by an hour while they run, by libfaketime if it is installed. Their monotonic
//! clock continues, as it does on a real machine.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::contract::{Fault, FaultFuture, FaultInfo, Injection, InjectionContext, RedeliveryPolicy};
use crate::system::System;

pub(super) const ALL: &[&dyn Fault] = &[
    &ClockStep { info: FaultInfo::new("clock-back", "the roles' clock steps back by an hour"), offset: "-1h" },
    &ClockStep { info: FaultInfo::new("clock-forward", "the roles' clock steps forward by an hour"), offset: "+1h" },
];

struct ClockStep {
    info: FaultInfo,
    /// As libfaketime reads it.
    offset: &'static str,
}

impl ClockStep {
    /// The clock keeps its offset until [`Fault::clean_up`]: recovery is measured on processes that continue with it.
    async fn step(&self, context: &InjectionContext<'_>) -> anyhow::Result<Injection> {
        let started = Instant::now();
        let file = context.system.options.folder.join("clock");
        write_offset(&file, "+0")?;
        let environment = [
            ("LD_PRELOAD", library().unwrap_or_default().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_DONT_RESET", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value));
        let failures = context.system.fleet.restart_all(&environment).await?;
        // The roles read the real time before it steps.
        tokio::time::sleep(context.timing.down).await;
        write_offset(&file, self.offset)?;
        tokio::time::sleep(context.timing.condition).await;
        Ok(Injection { failures, ..context.injected_since(started) })
    }
}

impl Fault for ClockStep {
    fn info(&self) -> FaultInfo {
        self.info
    }

    fn available(&self, _system: &System) -> Result<(), String> {
        library().map(|_| ()).ok_or_else(|| "libfaketime is not installed (Debian: libfaketime)".to_owned())
    }

    fn inject<'a>(&'a self, context: &'a InjectionContext<'a>) -> FaultFuture<'a, Injection> {
        Box::pin(self.step(context))
    }

    /// Restarts the roles with the real clock.
    fn clean_up<'a>(&'a self, system: &'a System) -> FaultFuture<'a, Vec<String>> {
        Box::pin(system.fleet.restart_all(&[]))
    }

    /// The clock steps in new processes, and the old ones hand over their partitions cleanly.
    fn redelivery_allowed(&self, _injection: &Injection) -> RedeliveryPolicy {
        RedeliveryPolicy::Never
    }
}

/// The libfaketime for programs with threads, where Debian installs it.
fn library() -> Option<PathBuf> {
    let folders =
        std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    folders.chain([PathBuf::from("/usr/lib/faketime/libfaketimeMT.so.1")]).find(|path| path.exists())
}

/// Replaces the file atomically, so that no process reads half a line.
fn write_offset(file: &Path, offset: &str) -> std::io::Result<()> {
    let next = file.with_extension("next");
    std::fs::write(&next, format!("{offset}\n"))?;
    std::fs::rename(next, file)
}
