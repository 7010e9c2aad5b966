//! Tells of a run: a line as each fault ends, a table at the end, the report as JSON and as Markdown.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::FaultArgs;
use super::plan::Planned;
use super::state::{State, Step, Verdict};
use crate::machine::{Circumstances, circumstances};

/// A run as it is told of.
#[derive(Serialize)]
pub struct Report {
    /// Whether everything was run that can be run here, and nothing was found.
    pub passed: bool,
    /// Steps that are left.
    pub left: usize,
    seed: u64,
    brokers: u8,
    instances: u8,
    rate: u32,
    circumstances: Circumstances,
    state: State,
    /// What each fault does, by its id.
    does: std::collections::BTreeMap<&'static str, &'static str>,
    /// Numbers of the steps of the random sequence.
    random: Vec<usize>,
}

impl Report {
    /// Of what was done of `steps`.
    pub fn new(args: &FaultArgs, steps: &[Planned], state: State) -> Self {
        let left = steps.len() - (0..steps.len()).filter(|number| state.has(*number)).count();
        let mut circumstances = circumstances();
        circumstances.parts.insert("kafka".to_owned(), devstack::kafka_version().to_owned());
        for check in devstack::tools::check_all() {
            if let Ok(found) = check.found {
                circumstances.parts.insert(check.tool.to_owned(), found);
            }
        }
        Self {
            passed: left == 0 && state.at_the_end.is_empty() && state.done.iter().all(Step::passed),
            left,
            seed: args.seed,
            brokers: args.nodes(),
            instances: args.instances_per_role(),
            rate: args.rate,
            circumstances,
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
        Verdict::Run(outcomes) => {
            outcomes.violations.iter().for_each(|violation| println!("          {}: {}", violation.rule, violation.found))
        }
        Verdict::Broken(_) | Verdict::NotRun(_) => {}
    }
}

fn summary(verdict: &Verdict) -> String {
    match verdict {
        Verdict::NotRun(reason) => format!("not run: {reason}"),
        Verdict::Broken(reason) => format!("BROKEN: {reason}"),
        Verdict::Run(outcomes) => {
            let held = if outcomes.violations.is_empty() { "held".to_owned() } else { format!("VIOLATED ({})", outcomes.violations.len()) };
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

/// Prints the end, and writes `report.json` and `report.md` into `folder`, the latter also to `markdown`.
pub fn write(folder: &Path, markdown: Option<&Path>, report: &Report) -> anyhow::Result<()> {
    let text = as_markdown(report);
    let files = [(folder.join("report.json"), serde_json::to_string_pretty(report)?), (folder.join("report.md"), text.clone())];
    for (path, content) in files.iter().map(|(path, content)| (path.as_path(), content)).chain(markdown.map(|path| (path, &text))) {
        std::fs::write(path, content).with_context(|| format!("writing {}", path.display()))?;
    }
    print!("{}", table(report));
    let verdict = if report.passed { "everything held" } else { "NOT everything held, or something is left" };
    println!("{verdict}: {} steps done, {} left, {:.0} s", report.state.done.len(), report.left, report.state.seconds);
    Ok(())
}

fn as_markdown(report: &Report) -> String {
    let machine = &report.circumstances;
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
        "{} of {} steps passed, {} left, {:.0} s in all.",
        report.state.done.iter().filter(|step| step.passed()).count(),
        report.state.done.len() + report.left,
        report.left,
        report.state.seconds
    ));
    say(String::new());
    text.push_str(&table(report));
    let found: Vec<&Step> = report.state.done.iter().filter(|step| !step.passed()).collect();
    if !found.is_empty() {
        text.push_str("\nWhat was found:\n\n");
    }
    for step in found {
        match &step.verdict {
            Verdict::Run(outcomes) => {
                for violation in &outcomes.violations {
                    // Writing to a text cannot fail.
                    let _ = writeln!(text, "- {} {}: {}: {}", step.number + 1, step.fault, violation.rule, violation.found);
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
