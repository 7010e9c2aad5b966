//! Tells of a run: a line as each fault ends, a table at the end, the report as JSON and as Markdown.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::FaultArgs;
use super::plan::Planned;
use super::state::{State, Step, Verdict};
use crate::machine::{Circumstances, circumstances};

const JSON: &str = "report.json";
const MARKDOWN: &str = "report.md";

/// A run as it is told of.
#[derive(Serialize)]
pub struct Report {
    /// Whether everything was run that can be run here, and nothing was found.
    pub passed: bool,
    /// Steps of the run.
    steps: usize,
    /// Steps that are left. The check at the end is told of apart: in `state`.
    pub left: usize,
    /// Steps that cannot be done here. They do not count against the run.
    pub not_run: usize,
    /// Inboxes that the rounds left; of these `state` tells how many were read again at the end.
    inboxes: usize,
    seed: u64,
    brokers: u8,
    instances: u8,
    rate: u32,
    state: State,
    /// What each fault does, by its id.
    does: std::collections::BTreeMap<&'static str, &'static str>,
    /// Numbers of the steps of the random sequence.
    random: Vec<usize>,
}

/// What is there, with the versions of what is started.
pub fn surroundings() -> Circumstances {
    let mut circumstances = circumstances();
    circumstances.parts.insert("kafka".to_owned(), devstack::kafka_version().to_owned());
    for check in devstack::tools::check_all() {
        if let Ok(found) = check.found {
            circumstances.parts.insert(check.tool.to_owned(), found);
        }
    }
    circumstances
}

impl Report {
    /// Of what was done of `steps`.
    pub fn new(args: &FaultArgs, steps: &[Planned], state: State) -> Self {
        let left = steps.len() - (0..steps.len()).filter(|number| state.has(*number)).count();
        Self {
            passed: left == 0
                && state.is_checked()
                && state.at_the_end.is_empty()
                && state.done.iter().all(Step::passed),
            steps: steps.len(),
            left,
            not_run: state.done.iter().filter(|step| matches!(step.verdict, Verdict::NotRun(_))).count(),
            inboxes: state.done.iter().filter(|step| step.was_run()).count() * args.organizations(),
            seed: args.seed,
            brokers: args.nodes(),
            instances: args.instances_per_role(),
            rate: args.rate,
            does: steps.iter().map(|step| (step.fault.id, step.fault.does)).collect(),
            random: steps.iter().enumerate().filter(|(_, step)| step.random).map(|(number, _)| number).collect(),
            state,
        }
    }
}

/// The live line of a step that ended, with what was found.
pub fn line(step: &Step, of: usize) {
    println!("[{:>3}/{of}] {:20} {}", step.number + 1, step.fault, summary(&step.verdict));
    match &step.verdict {
        Verdict::Run(outcomes) => outcomes
            .violations
            .iter()
            .for_each(|violation| println!("          {}: {}", violation.rule, violation.found)),
        Verdict::Broken(_) | Verdict::NotRun(_) => {}
    }
}

fn summary(verdict: &Verdict) -> String {
    match verdict {
        Verdict::NotRun(reason) => format!("not run: {reason}"),
        Verdict::Broken(reason) => format!("BROKEN: {reason}"),
        Verdict::Run(outcomes) => {
            let held = if outcomes.violations.is_empty() {
                "held".to_owned()
            } else {
                format!("VIOLATED ({})", outcomes.violations.len())
            };
            let counts = outcomes.counts;
            format!(
                "{held}; {} accepted, {} refused, {} unknown; {} shown, {} acknowledged, {} delivered, {} again; recovered in {}",
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
    seconds.map_or_else(|| "no time".to_owned(), |seconds| format!("{seconds:.1} s"))
}

/// Removes the reports of a run before.
pub fn remove(folder: &Path) -> anyhow::Result<()> {
    for path in [JSON, MARKDOWN].map(|name| folder.join(name)) {
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("removing {}", path.display()));
        }
    }
    Ok(())
}

/// Prints the end, and writes `report.json` and `report.md` into `folder`, the latter also to `markdown`.
pub fn write(folder: &Path, markdown: Option<&Path>, report: &Report) -> anyhow::Result<()> {
    let text = as_markdown(report);
    let files = [(folder.join(JSON), serde_json::to_string_pretty(report)?), (folder.join(MARKDOWN), text.clone())];
    for (path, content) in
        files.iter().map(|(path, content)| (path.as_path(), content)).chain(markdown.map(|path| (path, &text)))
    {
        std::fs::write(path, content).with_context(|| format!("writing {}", path.display()))?;
    }
    print!("{}", table(report));
    let verdict = if report.passed { "everything held" } else { "NOT everything held, or something is left" };
    println!("{}", end_check(report));
    let (done, seconds) = (report.state.done.len(), report.state.seconds);
    println!("{verdict}: {done} steps done, {} of them not run, {} left, {seconds:.0} s", report.not_run, report.left);
    Ok(())
}

/// Whether and on how much the check at the end was done.
fn end_check(report: &Report) -> String {
    let (read, of) = (report.state.read_again, report.inboxes);
    if of == 0 {
        "The end check: nothing was run, so there was nothing to read again.".to_owned()
    } else if report.state.is_checked() {
        format!("The end check was done: after rebuilds and replays {read} of {of} inboxes were read again.")
    } else {
        format!("The end check was NOT done for what was run last: {read} of {of} inboxes were read again.")
    }
}

fn as_markdown(report: &Report) -> String {
    let machine = &report.state.circumstances;
    let mut text = String::new();
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    say(format!("`{}`", machine.command.join(" ")));
    say(String::new());
    say(format!(
        "Seed {}; {} brokers, {} instances of each role, {} events/s. Commit {}{}, {}.",
        report.seed,
        report.brokers,
        report.instances,
        report.rate,
        machine.commit,
        if machine.uncommitted_changes { " with changes" } else { "" },
        machine.started_at
    ));
    say(format!(
        "{} cores of {}, {} MiB, Linux {}; {}.",
        machine.cores,
        machine.cpu,
        machine.memory_mib,
        machine.kernel,
        machine.parts.iter().map(|(part, version)| format!("{part} {version}")).collect::<Vec<_>>().join(", ")
    ));
    say(format!(
        "{} of {} steps were run and held, {} not run, {} left, {:.0} s in all.",
        report.state.done.iter().filter(|step| step.was_run() && step.passed()).count(),
        report.steps,
        report.not_run,
        report.left,
        report.state.seconds
    ));
    say(end_check(report));
    say(String::new());
    text.push_str(&table(report));
    text.push_str(&findings(report));
    text
}

fn findings(report: &Report) -> String {
    let mut text = String::new();
    let found: Vec<&Step> = report.state.done.iter().filter(|step| !step.passed()).collect();
    if !found.is_empty() || !report.state.at_the_end.is_empty() {
        text.push_str("\nWhat was found:\n\n");
    }
    for step in found {
        match &step.verdict {
            Verdict::Run(outcomes) => {
                for violation in &outcomes.violations {
                    // Writing to a text cannot fail.
                    let _ =
                        writeln!(text, "- {} {}: {}: {}", step.number + 1, step.fault, violation.rule, violation.found);
                }
            }
            other => {
                let _ = writeln!(text, "- {} {}: {}", step.number + 1, step.fault, summary(other));
            }
        }
    }
    for violation in &report.state.at_the_end {
        let _ = writeln!(text, "- at the end: {}: {}", violation.rule, violation.found);
    }
    text
}

fn table(report: &Report) -> String {
    let mut text = String::from(
        "| # | fault | what is done | held | accepted | refused | unknown | shown | acks | webhooks | repeated | lasted s | recovery s |\n\
         | --: | --- | --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n",
    );
    for step in &report.state.done {
        let does = report.does.get(step.fault.as_str()).copied().unwrap_or_default();
        let random = if report.random.contains(&step.number) { " (random)" } else { "" };
        let cells = match &step.verdict {
            Verdict::NotRun(reason) => format!("not run: {reason} | - | - | - | - | - | - | - | - | -"),
            Verdict::Broken(reason) => format!("**broken**: {reason} | - | - | - | - | - | - | - | - | -"),
            Verdict::Run(run) => format!(
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
        // Writing to a text cannot fail.
        let _ = writeln!(text, "| {} | {}{random} | {does} | {cells} |", step.number + 1, step.fault);
    }
    text
}
