//! The wall clock of all roles steps by an hour while they run. Their monotonic clock continues, as it does on a real
//! machine. `clock_step.c` is preloaded into them. libfaketime is not used: it allocates when it is asked for the time
//! first, and that is jemalloc while it starts, which then waits for itself for ever.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::contract::{Fault, FaultFuture, FaultInfo, Injection, InjectionContext, RedeliveryPolicy};
use crate::system::System;

pub(super) const ALL: &[&dyn Fault] = &[
    &ClockStep { info: FaultInfo::new("clock-back", "the roles' clock steps back by an hour"), offset_seconds: -3600 },
    &ClockStep {
        info: FaultInfo::new("clock-forward", "the roles' clock steps forward by an hour"),
        offset_seconds: 3600,
    },
];

const SOURCE: &str = include_str!("clock_step.c");
const COMPILER: &str = "cc";

struct ClockStep {
    info: FaultInfo,
    offset_seconds: i32,
}

impl ClockStep {
    /// The clock keeps its offset until [`Fault::clean_up`]: recovery is measured on processes that continue with it.
    async fn step(&self, context: &InjectionContext<'_>) -> anyhow::Result<Injection> {
        let started = Instant::now();
        let file = context.system.options.folder.join("clock");
        write_offset(&file, 0)?;
        let environment = [
            ("LD_PRELOAD", compile(&context.system.options.folder)?.display().to_string()),
            ("CLOCK_STEP_FILE", file.display().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value));
        let failures = context.system.fleet.restart_all(&environment).await?;
        // The roles read the real time before it steps.
        tokio::time::sleep(context.timing.down).await;
        write_offset(&file, self.offset_seconds)?;
        tokio::time::sleep(context.timing.condition).await;
        Ok(Injection { failures, ..context.injected_since(started) })
    }
}

impl Fault for ClockStep {
    fn info(&self) -> FaultInfo {
        self.info
    }

    fn available(&self, _system: &System) -> Result<(), String> {
        let asked = Command::new(COMPILER).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        let is_there = asked.is_ok_and(|status| status.success());
        is_there.then_some(()).ok_or_else(|| format!("the C compiler {COMPILER} is not installed"))
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

/// Compiles the library that is preloaded. The build of the workspace needs the compiler too.
fn compile(folder: &Path) -> anyhow::Result<PathBuf> {
    // The loader of a role resolves it from another working directory.
    let folder = folder.canonicalize().context("folder of the fault suite")?;
    let (source, library) = (folder.join("clock_step.c"), folder.join("clock_step.so"));
    std::fs::write(&source, SOURCE)?;
    let compiled = Command::new(COMPILER).args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).output()?;
    ensure!(compiled.status.success(), "{COMPILER} failed: {}", String::from_utf8_lossy(&compiled.stderr));
    Ok(library)
}

/// Replaces the file atomically, so that no process reads half a line.
fn write_offset(file: &Path, offset_seconds: i32) -> std::io::Result<()> {
    let next = file.with_extension("next");
    std::fs::write(&next, format!("{offset_seconds}\n"))?;
    std::fs::rename(next, file)
}
