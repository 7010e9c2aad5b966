//! A run of the suite: the steps of the plan that are not finished, and the final check.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use loadkit::Failure;
use time::OffsetDateTime;

use crate::args::Args;
use crate::check::Violation;
use crate::plan::PlannedStep;
use crate::report::{self, Report};
use crate::round::{self, RoundResult};
use crate::run_state::{FinishedStep, RunState, StepResult};
use crate::system::System;

/// Runs the suite. Returns whether everything was run and held.
pub(crate) async fn run(args: &Args) -> Result<bool, Failure> {
    // reqwest is built without a TLS provider. An error means that one is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let steps = args.steps()?;
    let folder = args.folder()?;
    let mut state = open_state(args, &folder)?;
    let remaining = remaining_steps(&steps, &state);
    println!(
        "{} faults, {} of them finished already, seed {}, logs in {}",
        steps.len(),
        steps.len() - remaining.len(),
        args.seed,
        folder.display()
    );
    if !remaining.is_empty() {
        run_steps(args, &folder, steps.len(), remaining, &mut state).await?;
    }
    let report = Report::new(args, &steps, state);
    report::write(&folder, args.markdown.as_deref(), &report)?;
    Ok(report.passed)
}

/// The state to start or resume with. It is written and the last reports are deleted at once: if this run is
/// interrupted, they must not be mistaken for its own.
fn open_state(args: &Args, folder: &Path) -> Result<RunState, Failure> {
    let new = RunState::new(args.plan_text(), args.binary_hash()?, report::environment());
    let state = RunState::open(folder, new, args.resume)?;
    if !args.resume {
        delete_logs(folder)?;
    }
    report::delete(folder)?;
    state.write(folder)?;
    Ok(state)
}

/// The steps that are not finished. If only the final check is missing, a passed step is run again: the check needs the
/// inboxes of a round, and those of the earlier rounds are gone with their system.
fn remaining_steps<'a>(steps: &'a [PlannedStep], state: &RunState) -> Vec<(usize, &'a PlannedStep)> {
    let mut remaining: Vec<(usize, &PlannedStep)> =
        steps.iter().enumerate().filter(|(number, _)| !state.has_finished(*number)).collect();
    if remaining.is_empty() && !state.is_checked() {
        let again = state.last_passed().and_then(|number| steps.get(number).map(|step| (number, step)));
        remaining.extend(again.inspect(|(_, step)| {
            println!("only the final check is missing: running {} again for it", step.fault.id());
        }));
    }
    remaining
}

/// Runs the remaining steps within the time budget, and the final check of their results.
async fn run_steps(
    args: &Args,
    folder: &Path,
    of: usize,
    remaining: Vec<(usize, &PlannedStep)>,
    state: &mut RunState,
) -> Result<(), Failure> {
    let (started, started_at) = (Instant::now(), OffsetDateTime::now_utc());
    let seconds_before = state.seconds;
    let system = System::start(args.system(folder)?).await.context("starting the system")?;
    println!("system started after {:.0} s", started.elapsed().as_secs_f64());
    let mut system = Some(system);
    let mut results = Vec::new();
    for (number, planned) in remaining {
        if started.elapsed() + args.longest_round() > args.budget {
            println!("time budget used up: continue with --resume");
            break;
        }
        let result = run_step(&mut system, args, number, planned, &mut results).await;
        let step = FinishedStep { number, fault: planned.fault.id().to_owned(), result };
        report::print_step(&step, of);
        state.seconds = seconds_before + started.elapsed().as_secs_f64();
        state.add(folder, step)?;
    }
    if let Some(system) = system {
        // Without an inbox the final check would prove nothing.
        if !results.is_empty() {
            run_final_check(&system, &results, started_at, args, state).await;
        }
        state.seconds = seconds_before + started.elapsed().as_secs_f64();
        state.write(folder)?;
        system.stop().await;
    }
    Ok(())
}

async fn run_final_check(
    system: &System,
    results: &[RoundResult],
    started_at: OffsetDateTime,
    args: &Args,
    state: &mut RunState,
) {
    let (found, read) = match round::final_check(system, results, started_at, args.settle).await {
        Ok(found) => (found, results.len()),
        Err(error) => (vec![Violation::new("final-check-failed", format!("{error:#}"))], 0),
    };
    println!("final check: {read} inboxes read again after rebuilds and replays; {} violations", found.len());
    found.iter().for_each(|violation| println!("          {}: {}", violation.rule, violation.found));
    state.final_violations.extend(found);
    state.inboxes_rechecked += read;
    state.final_check_done = true;
}

/// Deletes the logs of an earlier run.
fn delete_logs(folder: &Path) -> anyhow::Result<()> {
    let is_log =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log" || extension == "previous");
    let entries = std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for path in entries.flatten().map(|entry| entry.path()).filter(is_log) {
        std::fs::remove_file(&path).with_context(|| format!("deleting {}", path.display()))?;
    }
    Ok(())
}

/// Runs one step. After a failure the system is replaced, because its state says nothing about the next fault.
async fn run_step(
    slot: &mut Option<System>,
    args: &Args,
    number: usize,
    planned: &PlannedStep,
    results: &mut Vec<RoundResult>,
) -> StepResult {
    if slot.is_none() {
        let started = match args.folder().and_then(|folder| args.system(&folder)) {
            Ok(options) => System::start(options).await,
            Err(error) => Err(anyhow::Error::msg(error.to_string())),
        };
        match started {
            Ok(system) => *slot = Some(system),
            Err(error) => return StepResult::Failed(format!("the system did not start: {error:#}")),
        }
    }
    let Some(system) = slot.as_ref() else { return StepResult::Failed("there is no system".to_owned()) };
    if let Err(reason) = planned.fault.available(system) {
        return StepResult::NotRun(reason);
    }
    let name = format!("r{number}");
    match round::run(system, planned.fault, args.round(), &name, planned.pick, results).await {
        Ok(outcomes) => StepResult::Completed(Box::new(outcomes)),
        Err(error) => {
            if let Some(system) = slot.take() {
                // The results of its rounds are gone with the system.
                results.clear();
                system.stop().await;
            }
            StepResult::Failed(format!("{error:#}"))
        }
    }
}
