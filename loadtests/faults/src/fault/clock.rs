//! The wall clock of all roles steps by an hour while they run. Their monotonic clock continues, as it does on a real
//! machine. `clock_step.c` is preloaded into them. libfaketime is not used: it allocates when it is asked for the time
//! first, and that is jemalloc while it starts, which then waits for itself for ever.

use std::path::Path;
use std::time::Instant;

use super::contract::{Fault, FaultFuture, FaultInfo, Injection, InjectionContext, RedeliveryPolicy};
use super::preload;
use crate::system::System;

pub(super) const ALL: &[&dyn Fault] = &[
    &ClockStep { info: FaultInfo::new("clock-back", "the roles' clock steps back by an hour"), offset_seconds: -3600 },
    &ClockStep {
        info: FaultInfo::new("clock-forward", "the roles' clock steps forward by an hour"),
        offset_seconds: 3600,
    },
];

const LIBRARY: preload::Library = preload::Library { name: "clock_step", source: include_str!("clock_step.c") };

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
            ("LD_PRELOAD", LIBRARY.compile(&context.system.options.folder)?.display().to_string()),
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
        preload::available()
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

/// Replaces the file atomically, so that no process reads half a line.
fn write_offset(file: &Path, offset_seconds: i32) -> std::io::Result<()> {
    let next = file.with_extension("next");
    std::fs::write(&next, format!("{offset_seconds}\n"))?;
    std::fs::rename(next, file)
}
