//! Writes the report of a run: `report.json` with everything, `report.html` for a person (`page`), `series.csv` with
//! one row per second, `failures.csv` with the seconds that had errors, `stats.csv` with one row per figure, and a
//! summary for the terminal.
//!
//! Names in the CSV files are not quoted: components, consumer groups and outcomes consist of letters, digits, `-` and
//! `_`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use loadkit::RunEnvironment;
use serde::Serialize;

use crate::bottleneck;
use crate::figures::{Figures, Metric};
use crate::page;
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

/// Writes all files into `folder`.
pub(crate) fn write_all(folder: &Path, report: &Report) -> anyhow::Result<()> {
    write_json(folder, report)?;
    write_series(folder, "series.csv", &report.rows)?;
    write(folder, "failures.csv", &failures(&report.rows))?;
    write(folder, "stats.csv", &stats(&report.figures.metrics()))?;
    write(folder, "report.html", &page::render(report)?)
}

/// Writes all files into `folder` and prints the summary.
pub(crate) fn publish(folder: &Path, report: &Report) -> anyhow::Result<()> {
    write_all(folder, report)?;
    print!("{}", summary(report));
    println!("report in {}", folder.display());
    Ok(())
}

/// Writes the rows as `name` into `folder`.
pub(crate) fn write_series(folder: &Path, name: &str, rows: &[Row]) -> anyhow::Result<()> {
    write(folder, name, &csv(rows))
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// The errors of each second by outcome.
fn failures(rows: &[Row]) -> String {
    let mut text = "at_seconds,outcome,count\n".to_owned();
    for row in rows {
        for (outcome, count) in &row.failures {
            writeln!(text, "{:.3},{},{count}", row.at_seconds, outcome.name()).ok();
        }
    }
    text
}

/// One row per figure.
fn stats(metrics: &[Metric]) -> String {
    let mut text = "name,value,unit\n".to_owned();
    for metric in metrics {
        writeln!(text, "{},{:.3},{}", metric.name, metric.value, metric.unit).ok();
    }
    text
}

fn csv(rows: &[Row]) -> String {
    let components: BTreeSet<&String> = rows.iter().flat_map(|row| row.components.keys()).collect();
    let groups: BTreeSet<&String> = rows.iter().flat_map(|row| row.lag_records.keys()).collect();
    let mut text = "at_seconds,measured,target_per_second,sent,accepted,errors,p50_ms,p95_ms,p99_ms,p999_ms,max_ms,\
         in_flight,backlog,visible_p50_ms,visible_p95_ms,visible_p99_ms"
        .to_owned();
    for name in &components {
        write!(text, ",{name}_cpu_cores,{name}_memory_mib").ok();
    }
    for group in &groups {
        write!(text, ",{group}_lag_records").ok();
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
        match latency {
            seen if seen.count > 0 => write!(
                text,
                ",{:.3},{:.3},{:.3},{:.3},{:.3}",
                seen.p50_ms, seen.p95_ms, seen.p99_ms, seen.p999_ms, seen.max_ms
            )
            .ok(),
            _ => write!(text, ",,,,,").ok(),
        };
        write!(text, ",{},{}", row.in_flight, row.backlog).ok();
        match row.visible {
            seen if seen.count > 0 => write!(text, ",{:.3},{:.3},{:.3}", seen.p50_ms, seen.p95_ms, seen.p99_ms).ok(),
            _ => write!(text, ",,,").ok(),
        };
        for name in &components {
            match row.components.get(*name) {
                Some((cores, memory)) => write!(text, ",{cores:.3},{memory:.1}").ok(),
                None => write!(text, ",,").ok(),
            };
        }
        for group in &groups {
            match row.lag_records.get(*group) {
                Some(lag) => write!(text, ",{lag}").ok(),
                None => write!(text, ",").ok(),
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
    for read in &figures.reads {
        let (seen, errors) = (&read.latency, read.errors);
        writeln!(
            text,
            "  {} ms: p50 {:.2}  p95 {:.2}  p99 {:.2}  max {:.2}   ({} reads, {errors} errors)",
            read.kind, seen.p50_ms, seen.p95_ms, seen.p99_ms, seen.max_ms, seen.count
        )
        .ok();
    }
    for (name, used) in &figures.components {
        writeln!(text, "  {name}: {:.2} cores, {:.0} MiB", used.cpu_cores, used.memory_mib).ok();
    }
    for finding in bottleneck::find(figures, &report.rows, report.environment.cores) {
        writeln!(text, "  limit: {}", finding.text).ok();
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
    use crate::recorder::RequestOutcome;
    use crate::sample;
    use std::collections::BTreeMap;

    #[test]
    fn every_row_of_a_series_has_the_same_columns() {
        let row = |components: &[&str], groups: &[&str]| Row {
            components: components.iter().map(|name| ((*name).to_owned(), (0.5, 20.0))).collect::<BTreeMap<_, _>>(),
            lag_records: groups.iter().map(|name| ((*name).to_owned(), 7)).collect(),
            ..sample::rows().remove(0)
        };
        let columns = |text: &str| text.lines().map(|line| line.split(',').count()).collect::<Vec<usize>>();
        let text = csv(&[row(&["kafka", "triggers"], &[]), row(&["kafka"], &[])]);
        assert_eq!(columns(&text), [20, 20, 20]);
        assert!(text.starts_with("at_seconds,"));
        let text = csv(&[row(&["kafka"], &["view"]), row(&["kafka"], &["view", "webhooks"])]);
        assert_eq!(columns(&text), [20, 20, 20]);
        assert!(text.contains(",view_lag_records,webhooks_lag_records\n"), "{text}");
        assert!(text.ends_with(",7,7\n"), "{text}");
    }

    #[test]
    fn failures_has_the_seconds_with_errors_only() {
        let mut rows = sample::rows();
        rows[31].failures = BTreeMap::from([(RequestOutcome::TimedOut, 2), (RequestOutcome::Status(429), 1)]);
        assert_eq!(
            failures(&rows),
            "at_seconds,outcome,count\n31.001,status_503,7\n32.001,status_429,1\n32.001,timed_out,2\n"
        );
    }

    #[test]
    fn stats_has_one_row_per_figure_with_its_unit() {
        let text = stats(&sample::figures().metrics());
        for row in
            ["accepted,9998.400,events/s", "latency_p95,8.500,ms", "visible_p95,25.500,ms", "kafka_cpu,0.300,cores"]
        {
            assert!(text.lines().any(|line| line == row), "{row}: {text}");
        }
        assert!(text.lines().all(|line| line.split(',').count() == 3), "{text}");
        let mut names: Vec<&str> = text.lines().filter_map(|line| line.split(',').next()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "a name comes twice");
    }
}
