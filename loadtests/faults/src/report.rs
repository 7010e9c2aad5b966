//! Reports a run: a line after each step, a table at the end, and the report as JSON and as Markdown.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use loadkit::RunEnvironment;
use serde::Serialize;

use crate::args::Args;
use crate::plan::PlannedStep;
use crate::run_state::{FinishedStep, RunState, StepResult};

const JSON: &str = "report.json";
const MARKDOWN: &str = "report.md";

/// The report of a run.
#[derive(Serialize)]
pub(crate) struct Report {
    /// Whether every available fault was run and nothing was violated.
    pub passed: bool,
    /// Number of steps of the run.
    steps: usize,
    /// Number of steps that are not finished. The final check is reported in `state`.
    pub remaining: usize,
    /// Number of steps whose fault is not available here. They do not fail the run.
    pub not_run: usize,
    /// Number of inboxes of all rounds. `state` has the number that the final check read.
    inboxes: usize,
    seed: u64,
    brokers: u8,
    instances: u8,
    rate: u32,
    state: RunState,
    /// Descriptions of the faults, by id.
    descriptions: std::collections::BTreeMap<&'static str, &'static str>,
    /// Numbers of the steps of the random sequence.
    random: Vec<usize>,
}

/// The environment of the run, with the versions of the programs that it starts.
pub(crate) fn environment() -> RunEnvironment {
    let mut environment = RunEnvironment::detect();
    environment.versions.insert("kafka".to_owned(), devstack::kafka_version().to_owned());
    for check in devstack::tools::check_all() {
        if let Ok(found) = check.found {
            environment.versions.insert(check.tool.to_owned(), found);
        }
    }
    environment
}

impl Report {
    /// The report of `steps` with their results in `state`.
    pub(crate) fn new(args: &Args, steps: &[PlannedStep], state: RunState) -> Self {
        let remaining = steps.len() - (0..steps.len()).filter(|number| state.has_finished(*number)).count();
        Self {
            passed: remaining == 0
                && state.is_checked()
                && state.final_violations.is_empty()
                && state.finished.iter().all(FinishedStep::passed),
            steps: steps.len(),
            remaining,
            not_run: state.finished.iter().filter(|step| matches!(step.result, StepResult::NotRun(_))).count(),
            inboxes: state.finished.iter().filter(|step| step.is_completed()).count() * args.organizations(),
            seed: args.seed,
            brokers: args.nodes(),
            instances: args.instances_per_role(),
            rate: args.rate,
            descriptions: steps.iter().map(|step| (step.fault.id(), step.fault.info().description)).collect(),
            random: steps.iter().enumerate().filter(|(_, step)| step.random).map(|(number, _)| number).collect(),
            state,
        }
    }
}

/// Prints a line for a finished step, with its violations.
pub(crate) fn print_step(step: &FinishedStep, of: usize) {
    println!("[{:>3}/{of}] {:20} {}", step.number + 1, step.fault, summary(&step.result));
    match &step.result {
        StepResult::Completed(outcomes) => outcomes
            .violations
            .iter()
            .for_each(|violation| println!("          {}: {}", violation.rule, violation.found)),
        StepResult::Failed(_) | StepResult::NotRun(_) => {}
    }
}

fn summary(result: &StepResult) -> String {
    match result {
        StepResult::NotRun(reason) => format!("not run: {reason}"),
        StepResult::Failed(reason) => format!("FAILED: {reason}"),
        StepResult::Completed(outcomes) => {
            let held = if outcomes.violations.is_empty() {
                "held".to_owned()
            } else {
                format!("VIOLATED ({})", outcomes.violations.len())
            };
            let counts = outcomes.counts;
            format!(
                "{held}; {} accepted, {} refused, {} unknown; {} shown, {} acknowledged, {} delivered, {} repeated; \
                 recovered in {}",
                counts.accepted,
                counts.refused,
                counts.unknown,
                outcomes.shown,
                outcomes.acknowledged,
                outcomes.delivered,
                outcomes.repeated,
                recovery(outcomes.recovery_seconds),
            )
        }
    }
}

fn recovery(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "- (not recovered)".to_owned(), |seconds| format!("{seconds:.1} s"))
}

/// Deletes the reports of an earlier run.
pub(crate) fn delete(folder: &Path) -> anyhow::Result<()> {
    for path in [JSON, MARKDOWN].map(|name| folder.join(name)) {
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("deleting {}", path.display()));
        }
    }
    Ok(())
}

/// Prints the results, and writes `report.json` and `report.md` into `folder`, the latter also to `markdown`.
pub(crate) fn write(folder: &Path, markdown: Option<&Path>, report: &Report) -> anyhow::Result<()> {
    let text = as_markdown(report);
    let files = [(folder.join(JSON), serde_json::to_string_pretty(report)?), (folder.join(MARKDOWN), text.clone())];
    for (path, content) in
        files.iter().map(|(path, content)| (path.as_path(), content)).chain(markdown.map(|path| (path, &text)))
    {
        std::fs::write(path, content).with_context(|| format!("writing {}", path.display()))?;
    }
    print!("{}", table(report));
    let result = if report.passed { "Passed" } else { "FAILED or not complete" };
    println!("{}", final_check(report));
    let (finished, seconds) = (report.state.finished.len(), report.state.seconds);
    println!(
        "{result}: {finished} steps finished, {} of them not run, {} remaining, {seconds:.0} s",
        report.not_run, report.remaining
    );
    Ok(())
}

/// A sentence about the final check.
fn final_check(report: &Report) -> String {
    let (read, of) = (report.state.inboxes_rechecked, report.inboxes);
    if of == 0 {
        "Final check: no round was completed, so there was nothing to check.".to_owned()
    } else if report.state.is_checked() {
        format!("Final check done: {read} of {of} inboxes were read again after rebuilds and replays.")
    } else {
        format!("Final check NOT done for the last rounds: {read} of {of} inboxes were read again.")
    }
}

fn as_markdown(report: &Report) -> String {
    let environment = &report.state.environment;
    let mut text = String::new();
    let mut add_line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    add_line(format!("`{}`", environment.command.join(" ")));
    add_line(String::new());
    add_line(format!(
        "Seed {}; {} brokers, {} instances of each role, {} events/s. Commit {}{}, {}.",
        report.seed,
        report.brokers,
        report.instances,
        report.rate,
        environment.commit,
        if environment.uncommitted_changes { " with uncommitted changes" } else { "" },
        environment.started_at
    ));
    add_line(format!(
        "{} cores of {}, {} MiB, Linux {}; {}.",
        environment.cores,
        environment.cpu,
        environment.memory_mib,
        environment.kernel,
        environment
            .versions
            .iter()
            .map(|(program, version)| format!("{program} {version}"))
            .collect::<Vec<_>>()
            .join(", ")
    ));
    add_line(format!(
        "{} of {} steps passed, {} not run, {} remaining, {:.0} s in all.",
        report.state.finished.iter().filter(|step| step.is_completed() && step.passed()).count(),
        report.steps,
        report.not_run,
        report.remaining,
        report.state.seconds
    ));
    add_line(final_check(report));
    add_line(String::new());
    text.push_str(&table(report));
    text.push_str(&violations(report));
    text
}

fn violations(report: &Report) -> String {
    let mut text = String::new();
    let failed: Vec<&FinishedStep> = report.state.finished.iter().filter(|step| !step.passed()).collect();
    if !failed.is_empty() || !report.state.final_violations.is_empty() {
        text.push_str("\nViolations:\n\n");
    }
    for step in failed {
        match &step.result {
            StepResult::Completed(outcomes) => {
                for violation in &outcomes.violations {
                    // Writing to a string cannot fail.
                    let _ =
                        writeln!(text, "- {} {}: {}: {}", step.number + 1, step.fault, violation.rule, violation.found);
                }
            }
            other => {
                let _ = writeln!(text, "- {} {}: {}", step.number + 1, step.fault, summary(other));
            }
        }
    }
    for violation in &report.state.final_violations {
        let _ = writeln!(text, "- final check: {}: {}", violation.rule, violation.found);
    }
    text
}

fn table(report: &Report) -> String {
    let mut text = String::from(
        "| # | fault | what it does | passed | accepted | refused | unknown | shown | acks | webhooks | repeated \
         | lasted s | recovery s |\n\
         | --: | --- | --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n",
    );
    for step in &report.state.finished {
        let what = report.descriptions.get(step.fault.as_str()).copied().unwrap_or_default();
        let random = if report.random.contains(&step.number) { " (random)" } else { "" };
        let cells = match &step.result {
            StepResult::NotRun(reason) => format!("not run: {reason} | - | - | - | - | - | - | - | - | -"),
            StepResult::Failed(reason) => format!("**failed**: {reason} | - | - | - | - | - | - | - | - | -"),
            StepResult::Completed(run) => format!(
                "{} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {}",
                if run.violations.is_empty() { "yes".to_owned() } else { format!("**no** ({})", run.violations.len()) },
                run.counts.accepted,
                run.counts.refused,
                run.counts.unknown,
                run.shown,
                run.acknowledged,
                run.delivered,
                run.repeated,
                run.lasted_seconds,
                run.recovery_seconds.map_or_else(|| "none".to_owned(), |seconds| format!("{seconds:.1}")),
            ),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} | {}{random} | {what} | {cells} |", step.number + 1, step.fault);
    }
    text
}
