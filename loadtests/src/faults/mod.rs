//! The fault suite: the real system under load on all routes, one fault after the other, and after each a full account
//! of what was accepted, acknowledged and delivered.
//!
//! A run is a plan (plan) of faults (fault), each done in a round of its own (round, settling) on one running system
//! (system, fleet, receiver) under load (load) whose outcomes are noted (ledger) and compared (check) with what the API
//! (view), the log (log) and the positions (positions, audit) say. At the end everything is rebuilt (rebuilt), looked
//! at again, and must go on (going_on). What is left is taking a run up again (state) and telling of it (publish).

mod args;
mod audit;
mod check;
mod client;
mod fault;
mod fleet;
mod going_on;
mod ledger;
mod load;
mod log;
mod plan;
mod positions;
mod publish;
mod rebuilt;
mod receiver;
mod round;
mod settling;
mod state;
mod system;
mod view;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use time::OffsetDateTime;

pub use self::args::FaultArgs;
use self::check::Violation;
use self::plan::Planned;
use self::publish::Report;
use self::round::Left;
use self::state::{State, Step, Verdict};
use self::system::System;
use crate::error::Failure;

/// Runs the suite; tells whether everything held and nothing is left to run.
pub async fn run(args: FaultArgs) -> Result<bool, Failure> {
    if args.list {
        fault::all().iter().for_each(|fault| println!("{:20} {}", fault.id, fault.does));
        return Ok(true);
    }
    // The client is built without a provider of its own choice; a second call in one process is harmless.
    drop(rustls::crypto::ring::default_provider().install_default());
    let steps = args.steps()?;
    let folder = args.folder()?;
    let mut state = begin(&args, &folder)?;
    let left = to_do(&steps, &state);
    println!(
        "{} faults, {} of them done already, seed {}, logs in {}",
        steps.len(),
        steps.len() - left.len(),
        args.seed,
        folder.display()
    );
    if !left.is_empty() {
        carry_out(&args, &folder, steps.len(), left, &mut state).await?;
    }
    let report = Report::new(&args, &steps, state);
    publish::write(&folder, args.markdown.as_deref(), &report)?;
    Ok(report.passed)
}

/// Where the run begins or goes on. The state is written at once and the last reports go: if this run is interrupted,
/// theirs must not be taken for its own.
fn begin(args: &FaultArgs, folder: &Path) -> Result<State, Failure> {
    let new = State::new(args.plan_text(), args.product()?, publish::surroundings());
    let state = State::open(folder, new, args.resume)?;
    if !args.resume {
        remove_logs(folder)?;
    }
    publish::remove(folder)?;
    state.write(folder)?;
    Ok(state)
}

/// The steps that are left. If only the check at the end is, one that held is done again: the check needs what a fault
/// leaves, and what the others left is gone with the system that they were done on.
fn to_do<'a>(steps: &'a [Planned], state: &State) -> Vec<(usize, &'a Planned)> {
    let mut left: Vec<(usize, &Planned)> = steps.iter().enumerate().filter(|(number, _)| !state.has(*number)).collect();
    if left.is_empty() && !state.is_checked() {
        let again = state.last_held().and_then(|number| steps.get(number).map(|planned| (number, planned)));
        left.extend(again.inspect(|(_, planned)| {
            println!("only the check at the end is left: {} is done again for it", planned.fault.id)
        }));
    }
    left
}

/// Does what is left, as far as the time allows, and checks at the end what it left.
async fn carry_out(
    args: &FaultArgs,
    folder: &Path,
    of: usize,
    left: Vec<(usize, &Planned)>,
    state: &mut State,
) -> Result<(), Failure> {
    let (begun, begun_at) = (Instant::now(), OffsetDateTime::now_utc());
    let before = state.seconds;
    let system = System::start(args.shape(folder)?).await.context("starting the system")?;
    println!("the system is up after {:.0} s", begun.elapsed().as_secs_f64());
    let mut system = Some(system);
    let mut kept = Vec::new();
    for (number, planned) in left {
        if begun.elapsed() + args.longest_round() > args.budget {
            println!("the time of this run is used up: go on with --resume");
            break;
        }
        let verdict = one(&mut system, args, number, planned, &mut kept).await;
        let step = Step { number, fault: planned.fault.id.to_owned(), verdict };
        publish::line(&step, of);
        state.seconds = before + begun.elapsed().as_secs_f64();
        state.note(folder, step)?;
    }
    if let Some(system) = system {
        // Over no inbox at all it would say nothing.
        if !kept.is_empty() {
            check_again(&system, &kept, begun_at, args, state).await;
        }
        state.seconds = before + begun.elapsed().as_secs_f64();
        state.write(folder)?;
        system.stop().await;
    }
    Ok(())
}

/// The check at the end of what the rounds on this system left.
async fn check_again(system: &System, kept: &[Left], begun_at: OffsetDateTime, args: &FaultArgs, state: &mut State) {
    let (found, read) = match round::unchanged(system, kept, begun_at, args.settle).await {
        Ok(found) => (found, kept.len()),
        Err(error) => (vec![Violation::new("not-read-again", format!("{error:#}"))], 0),
    };
    println!("the end check: {read} inboxes were read again after rebuilds and replays; {} findings", found.len());
    found.iter().for_each(|violation| println!("          {}: {}", violation.rule, violation.found));
    state.at_the_end.extend(found);
    state.read_again += read;
    state.end_checked = true;
}

/// Logs of another run would be taken for this one's.
fn remove_logs(folder: &Path) -> anyhow::Result<()> {
    let is_log =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log" || extension == "previous");
    let entries = std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for path in entries.flatten().map(|entry| entry.path()).filter(is_log) {
        std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

/// Runs one step. A system that broke on the way is replaced: what it is in says nothing about the next fault.
async fn one(
    slot: &mut Option<System>,
    args: &FaultArgs,
    number: usize,
    planned: &Planned,
    kept: &mut Vec<Left>,
) -> Verdict {
    if slot.is_none() {
        let started = match args.folder().and_then(|folder| args.shape(&folder)) {
            Ok(shape) => System::start(shape).await,
            Err(error) => Err(anyhow::Error::msg(error.to_string())),
        };
        match started {
            Ok(system) => *slot = Some(system),
            Err(error) => return Verdict::Broken(format!("the system did not start: {error:#}")),
        }
    }
    let Some(system) = slot.as_ref() else { return Verdict::Broken("there is no system".to_owned()) };
    if let Some(reason) = planned.fault.not_here(system) {
        return Verdict::NotRun(reason.0);
    }
    let name = format!("r{number}");
    match round::run(system, &planned.fault, args.pace(), &name, planned.pick, kept).await {
        Ok(outcomes) => Verdict::Run(Box::new(outcomes)),
        Err(error) => {
            if let Some(system) = slot.take() {
                // What it kept is gone with it.
                kept.clear();
                system.stop().await;
            }
            Verdict::Broken(format!("{error:#}"))
        }
    }
}
