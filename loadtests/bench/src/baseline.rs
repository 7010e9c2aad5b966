//! Writes the results of a commit as a document: each figure beside its target, what an event costs, and where the
//! results came from.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use loadkit::{Failure, RunEnvironment};

use crate::results::{ResultFigure, Results};

/// Writes the document from a file of results to `path`.
pub(crate) fn run(results: &Path, path: &PathBuf) -> Result<bool, Failure> {
    let text = document(&Results::read(results)?);
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    println!("written: {}", path.display());
    Ok(true)
}

fn document(results: &Results) -> String {
    let environment = &results.environment;
    let mut text = String::from("# Performance baseline\n\n");
    text.push_str(
        "Written by `bench report` from the results of one commit; do not edit. What the figures mean, and what was\n",
    );
    text.push_str("tried to improve them, is in [performance.md](performance.md).\n\n");
    text.push_str(&origin(environment));
    text.push_str("\n## Target and reached\n\n");
    text.push_str("Medians, lowest and highest in brackets. The bare loop ran in turns with the product.\n\n");
    text.push_str("| | | product | bare loop | ratio | target | |\n| --- | --- | --- | --- | --- | --- | --- |\n");
    for figure in results.figures.iter().filter(|figure| !is_part(figure)) {
        text.push_str(&row(figure));
    }
    text.push_str(&cost(results));
    text
}

/// A component's part of a figure.
fn is_part(figure: &ResultFigure) -> bool {
    figure.what.starts_with("of it ")
}

fn origin(environment: &RunEnvironment) -> String {
    let RunEnvironment { cpu, cores, memory_mib, kernel, commit, started_at, .. } = environment;
    let changed = if environment.uncommitted_changes { ", with uncommitted changes" } else { "" };
    let mut text = format!("- {started_at}, commit `{commit}`{changed}\n");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "- {cpu}, {cores} cores, {memory_mib} MiB, Linux {kernel}; everything on this machine");
    let versions: Vec<String> =
        environment.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    if !versions.is_empty() {
        let _ = writeln!(text, "- {}", versions.join(", "));
    }
    let _ = writeln!(text, "- `{}`", environment.command.join(" "));
    text
}

fn row(figure: &ResultFigure) -> String {
    let bare = figure.bare.map_or_else(String::new, |bare| format!("{bare} {}", figure.unit));
    let ratio = figure.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    let has_target = figure.target.text(&figure.unit) != "-";
    let reached = match (has_target, figure.reached) {
        (false, _) => "",
        (true, true) => "reached",
        (true, false) => "**missed**",
    };
    let target = if has_target { figure.target.text(&figure.unit) } else { String::new() };
    let (id, what, product, unit) = (&figure.id, &figure.what, figure.product, &figure.unit);
    format!("| {id} | {what} | {product} {unit} | {bare} | {ratio} | {target} | {reached} |\n")
}

/// What an event costs, and a million of them.
fn cost(results: &Results) -> String {
    let parts: Vec<&ResultFigure> = results.figures.iter().filter(|figure| is_part(figure)).collect();
    if parts.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n## CPU of an event at 10,000/s\n\n");
    text.push_str("One microsecond for each event is one second of a core for a million events.\n\n");
    text.push_str("| component | product | bare pipeline | |\n| --- | --- | --- | --- |\n");
    for part in &parts {
        let name = part.what.trim_start_matches("of it ");
        let bare = part.bare.map_or_else(String::new, |bare| format!("{bare} us"));
        let ratio = part.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let _ = writeln!(text, "| {name} | {} us | {bare} | {ratio} |", part.product);
    }
    let most = parts.iter().max_by(|left, right| left.product.median.total_cmp(&right.product.median));
    if let Some(most) = most {
        let name = most.what.trim_start_matches("of it ");
        let _ = writeln!(text, "\nMost of it is of {name}: {:.1} us.", most.product.median);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Target;
    use crate::spread::Spread;

    fn figure(id: &str, what: &str, product: f64, bare: f64, target: Target) -> ResultFigure {
        ResultFigure::new(id, what, "us", Spread::of([product]), Some(Spread::of([bare])), target)
    }

    #[test]
    fn each_figure_is_beside_its_target_and_parts_are_apart() {
        let figures = vec![
            figure("S15", "CPU of an event", 150.0, 100.0, Target::at_most(115.0)),
            figure("S15", "of it ingest", 90.0, 40.0, Target::default()),
            figure("S15", "of it kafka", 60.0, 60.0, Target::default()),
        ];
        let text = document(&Results { environment: RunEnvironment::default(), figures });
        assert!(
            text.contains("| S15 | CPU of an event | 150.0 us | 100.0 us | 1.50 | <= 115 us | **missed** |"),
            "{text}"
        );
        assert!(text.contains("| ingest | 90.0 us | 40.0 us | 2.25 |"), "{text}");
        assert!(text.contains("Most of it is of ingest: 90.0 us."), "{text}");
        assert!(!text.contains("| S15 | of it"), "{text}");
    }
}
