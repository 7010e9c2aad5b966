//! Writes the report of a run: `report.json` with everything, `series.csv` with one row per second, and a summary for
//! the terminal.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use loadkit::RunEnvironment;
use serde::Serialize;

use crate::figures::Figures;
use crate::scenario::Check;
use crate::session::Row;

/// Default folder for reports, relative to the folder of the project.
const DEFAULT_FOLDER: &str = "loadtests/reports";

/// The report of one run.
#[derive(Serialize)]
pub(crate) struct Report {
    /// Name of the scenario or the bare loop.
    pub name: String,
    /// The environment of the run.
    pub environment: RunEnvironment,
    pub figures: Figures,
    pub checks: Vec<Check>,
    /// Whether all thresholds are met.
    pub passed: bool,
    /// One row per second, for the CSV file.
    #[serde(skip)]
    pub rows: Vec<Row>,
}

/// The folder of a report: `out`, or one named by time and `name`.
pub(crate) fn folder(out: Option<&Path>, name: &str) -> PathBuf {
    out.map_or_else(
        || {
            let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
            let time = time::OffsetDateTime::now_utc().format(&format).unwrap_or_else(|_| "unknown-time".to_owned());
            Path::new(DEFAULT_FOLDER).join(format!("{time}-{name}"))
        },
        Path::to_owned,
    )
}

/// Writes `value` as `report.json` into `folder`, which is created.
pub(crate) fn write_json(folder: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let path = folder.join("report.json");
    let mut text = serde_json::to_string_pretty(value).context("writing the report")?;
    text.push('\n');
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// Writes both files into `folder`.
pub(crate) fn write(folder: &Path, report: &Report) -> anyhow::Result<()> {
    write_json(folder, report)?;
    write_series(folder, "series.csv", &report.rows)
}

/// Writes both files into `folder` and prints the summary.
pub(crate) fn publish(folder: &Path, report: &Report) -> anyhow::Result<()> {
    write(folder, report)?;
    print!("{}", summary(report));
    println!("report in {}", folder.display());
    Ok(())
}

/// Writes the rows as `name` into `folder`.
pub(crate) fn write_series(folder: &Path, name: &str, rows: &[Row]) -> anyhow::Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, csv(rows)).with_context(|| format!("writing {}", path.display()))
}

fn csv(rows: &[Row]) -> String {
    let components: std::collections::BTreeSet<&String> = rows.iter().flat_map(|row| row.components.keys()).collect();
    let mut text = "at_seconds,measured,target_per_second,sent,accepted,errors,p50_ms,p95_ms,p99_ms,p999_ms,max_ms,\
         in_flight,backlog"
        .to_owned();
    for name in &components {
        write!(text, ",{name}_cpu_cores,{name}_memory_mib").ok();
    }
    text.push('\n');
    for row in rows {
        let latency = &row.latency;
        write!(
            text,
            "{:.3},{},{},{},{},{}",
            row.at_seconds, row.measured, row.target, row.sent, row.accepted, row.errors
        )
        .ok();
        write!(
            text,
            ",{:.3},{:.3},{:.3},{:.3},{:.3}",
            latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.p999_ms, latency.max_ms
        )
        .ok();
        write!(text, ",{},{}", row.in_flight, row.backlog).ok();
        for name in &components {
            match row.components.get(*name) {
                Some((cores, memory)) => write!(text, ",{cores:.3},{memory:.1}").ok(),
                None => write!(text, ",,").ok(),
            };
        }
        text.push('\n');
    }
    text
}

/// The summary of one run.
pub(crate) fn summary(report: &Report) -> String {
    let figures = &report.figures;
    let latency = &figures.latency;
    let mut text = String::new();
    writeln!(
        text,
        "{}: {:.0} accepted/s, {} requests, {} errors",
        report.name, figures.accepted_per_second, figures.requests, figures.errors
    )
    .ok();
    writeln!(
        text,
        "  latency ms: p50 {:.2}  p95 {:.2}  p99 {:.2}  p99.9 {:.2}  p99.99 {:.2}  max {:.2}   \
         (send delay: p50 {:.2}  p99 {:.2})",
        latency.p50_ms,
        latency.p95_ms,
        latency.p99_ms,
        latency.p999_ms,
        latency.p9999_ms,
        latency.max_ms,
        figures.send_delay.p50_ms,
        figures.send_delay.p99_ms
    )
    .ok();
    if let Some(visibility) = &figures.visibility {
        let seen = &visibility.latency;
        writeln!(
            text,
            "  visible ms: p50 {:.2}  p95 {:.2}  p99 {:.2}  max {:.2}   ({} sampled)",
            seen.p50_ms, seen.p95_ms, seen.p99_ms, seen.max_ms, seen.count
        )
        .ok();
    }
    for (name, used) in &figures.components {
        writeln!(text, "  {name}: {:.2} cores, {:.0} MiB", used.cpu_cores, used.memory_mib).ok();
    }
    for (outcome, count) in figures.outcomes.iter().filter(|(outcome, _)| *outcome != "accepted") {
        writeln!(text, "  {outcome}: {count}").ok();
    }
    for example in figures.inbox.iter().flat_map(|inbox| &inbox.examples) {
        writeln!(text, "  {example}").ok();
    }
    for check in &report.checks {
        writeln!(
            text,
            "  {} {}: {} (threshold: {})",
            if check.passed { "ok    " } else { "MISSED" },
            check.name,
            check.found,
            check.threshold
        )
        .ok();
    }
    if !report.environment.optimized_generator {
        writeln!(text, "  (unoptimized generator: the latencies are meaningless)").ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::Latency;
    use std::collections::BTreeMap;

    #[test]
    fn every_row_of_a_series_has_the_same_columns() {
        let row = |components: &[&str]| Row {
            at_seconds: 1.0,
            measured: true,
            target: 100,
            sent: 100,
            accepted: 100,
            errors: 0,
            latency: Latency::default(),
            in_flight: 0,
            backlog: 0,
            components: components.iter().map(|name| ((*name).to_owned(), (0.5, 20.0))).collect::<BTreeMap<_, _>>(),
        };
        let text = csv(&[row(&["kafka", "triggers"]), row(&["kafka"])]);
        let columns: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [17, 17, 17]);
        assert!(text.starts_with("at_seconds,"));
    }
}
