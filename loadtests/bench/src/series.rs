//! The plots of a run: which lines they have, from the rows and the figures. Pure.
//!
//! `plot` draws them, `page` shows them.

use std::collections::BTreeSet;

use plotters::style::RGBColor;

use crate::plot::{BOUND, Horizontal, Line, Plot, SUM, Scale, color};
use crate::recorder::{Latency, RequestOutcome};
use crate::report::Report;
use crate::session::Row;

/// The plots of the run, in the order of the page.
pub(crate) fn plots(report: &Report) -> Vec<Plot> {
    let rows = &report.rows;
    let mut plots = vec![rate(rows), latency(rows, "Latency of requests", |row| row.latency), percentiles(report)];
    if rows.iter().any(|row| row.visible.count > 0) {
        plots.push(latency(rows, "Time from success to visible", |row| row.visible));
    }
    plots.push(waiting(rows));
    plots.extend(cpu(rows, report.environment.cores));
    plots.extend(by_name(rows, ("Memory by component", "MiB"), |row| {
        row.components.iter().map(|(name, used)| (name.clone(), used.1)).collect()
    }));
    plots.extend(by_name(rows, ("Consumer lag", "records"), |row| {
        row.lag_records.iter().map(|(name, lag)| (name.clone(), *lag as f64)).collect()
    }));
    let kinds: BTreeSet<RequestOutcome> = rows.iter().flat_map(|row| row.failures.keys().copied()).collect();
    plots.extend(by_name(rows, ("Errors by outcome", "requests/s"), |row| {
        let count = |kind: &RequestOutcome| row.failures.get(kind).copied().unwrap_or(0) as f64;
        kinds.iter().map(|kind| (kind.name(), count(kind))).collect()
    }));
    plots
}

/// A plot over time.
fn over_time(rows: &[Row], title: &'static str, vertical: &'static str, scale: Scale, lines: Vec<Line>) -> Plot {
    Plot { title, horizontal: Horizontal::Seconds, vertical, scale, lines, shaded: not_measured(rows) }
}

/// The times before and after the measured part.
fn not_measured(rows: &[Row]) -> Vec<(f64, f64)> {
    let end_of = |index: usize| rows.get(index).map_or(0.0, |row| row.at_seconds);
    let last = rows.len().saturating_sub(1);
    let (Some(from), Some(to)) = (rows.iter().position(|row| row.measured), rows.iter().rposition(|row| row.measured))
    else {
        return vec![(0.0, end_of(last))];
    };
    let before = (from > 0).then(|| (0.0, end_of(from - 1)));
    let after = (to < last).then(|| (end_of(to), end_of(last)));
    before.into_iter().chain(after).collect()
}

fn line(rows: &[Row], name: &str, color: RGBColor, figure: impl Fn(&Row) -> Option<f64>) -> Line {
    let points = rows.iter().map(|row| (row.at_seconds, figure(row))).collect();
    Line { name: name.to_owned(), color, points }
}

fn rate(rows: &[Row]) -> Plot {
    let mut lines = Vec::new();
    // The closed loop has no target.
    if rows.iter().any(|row| row.target > 0) {
        lines.push(line(rows, "target", BOUND, |row| Some(row.target as f64)));
    }
    lines.push(line(rows, "sent", color(5), |row| Some(row.sent as f64)));
    lines.push(line(rows, "accepted", color(0), |row| Some(row.accepted as f64)));
    lines.push(line(rows, "errors", color(1), |row| Some(row.errors as f64)));
    over_time(rows, "Rate", "requests/s", Scale::Linear, lines)
}

/// Percentiles over time.
fn latency(rows: &[Row], title: &'static str, latency_of: fn(&Row) -> Latency) -> Plot {
    let percentile = |name, color, figure: fn(&Latency) -> f64| {
        // A second without a reply has no latency.
        line(rows, name, color, move |row| {
            Some(latency_of(row)).filter(|seen| seen.count > 0).map(|seen| figure(&seen))
        })
    };
    let lines = vec![
        percentile("p50", color(5), |latency| latency.p50_ms),
        percentile("p95", color(0), |latency| latency.p95_ms),
        percentile("p99", color(4), |latency| latency.p99_ms),
        percentile("max", color(1), |latency| latency.max_ms),
    ];
    over_time(rows, title, "ms, logarithmic", Scale::Logarithmic, lines)
}

/// Latency and time to visible of the measured part, by percentile.
fn percentiles(report: &Report) -> Plot {
    let line = |name: &str, color, latency: &Latency| {
        let nines = [
            (0.301, latency.p50_ms),
            (1.301, latency.p95_ms),
            (2.0, latency.p99_ms),
            (3.0, latency.p999_ms),
            (4.0, latency.p9999_ms),
        ];
        let points = nines.into_iter().map(|(nines, ms)| (nines, (latency.count > 0).then_some(ms))).collect();
        Line { name: name.to_owned(), color, points }
    };
    let figures = &report.figures;
    let mut lines = vec![line("accepted", color(0), &figures.latency)];
    lines.extend(figures.visibility.as_ref().map(|seen| line("visible after success", color(3), &seen.latency)));
    // In the closed loop a request is due when it is sent.
    if figures.load.rate_per_second.is_some() {
        lines.push(line("send delay", BOUND, &figures.send_delay));
    }
    Plot {
        title: "Latency by percentile",
        horizontal: Horizontal::Nines,
        vertical: "ms, logarithmic",
        scale: Scale::Logarithmic,
        lines,
        shaded: Vec::new(),
    }
}

fn waiting(rows: &[Row]) -> Plot {
    let lines = vec![
        line(rows, "in flight", color(0), |row| Some(row.in_flight as f64)),
        line(rows, "backlog: due and not sent", color(1), |row| Some(row.backlog as f64)),
    ];
    over_time(rows, "Requests in flight and backlog", "requests", Scale::Linear, lines)
}

fn cpu(rows: &[Row], cores: usize) -> Option<Plot> {
    let mut plot = by_name(rows, ("CPU by component", "cores"), |row| {
        row.components.iter().map(|(name, used)| (name.clone(), used.0)).collect()
    })?;
    plot.lines.push(line(rows, "all of them", SUM, |row| Some(row.components.values().map(|(cores, _)| cores).sum())));
    plot.lines.push(line(rows, "cores of the machine", BOUND, |_| Some(cores as f64)));
    Some(plot)
}

/// A line for each name; none without names. `figures`: the values of a row by name.
fn by_name(
    rows: &[Row],
    (title, vertical): (&'static str, &'static str),
    figures: impl Fn(&Row) -> Vec<(String, f64)>,
) -> Option<Plot> {
    let names: BTreeSet<String> = rows.iter().flat_map(&figures).map(|(name, _)| name).collect();
    let value =
        |row: &Row, wanted: &str| figures(row).into_iter().find(|(name, _)| name == wanted).map(|found| found.1);
    let lines: Vec<Line> =
        names.iter().enumerate().map(|(index, name)| line(rows, name, color(index), |row| value(row, name))).collect();
    (!lines.is_empty()).then(|| over_time(rows, title, vertical, Scale::Linear, lines))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn names(plot: &Plot) -> Vec<&str> {
        plot.lines.iter().map(|line| line.name.as_str()).collect()
    }

    fn find<'a>(plots: &'a [Plot], title: &str) -> Option<&'a Plot> {
        plots.iter().find(|plot| plot.title == title)
    }

    #[test]
    fn plots_without_figures_are_left_out() {
        let mut report = sample::report();
        let all = plots(&report);
        assert_eq!(names(find(&all, "Rate").unwrap()), ["target", "sent", "accepted", "errors"]);
        assert_eq!(names(find(&all, "Time from success to visible").unwrap()), ["p50", "p95", "p99", "max"]);
        assert!(find(&all, "Errors by outcome").is_some() && find(&all, "Consumer lag").is_none());
        for row in &mut report.rows {
            (row.target, row.errors) = (0, 0);
            row.failures.clear();
            row.components.clear();
            row.visible = Latency::default();
            row.lag_records.insert("materializer".to_owned(), 5);
        }
        let few = plots(&report);
        assert_eq!(names(find(&few, "Rate").unwrap()), ["sent", "accepted", "errors"], "a closed loop has no target");
        assert_eq!(names(find(&few, "Consumer lag").unwrap()), ["materializer"]);
        for title in ["Errors by outcome", "CPU by component", "Memory by component", "Time from success to visible"] {
            assert!(find(&few, title).is_none(), "{title}");
        }
    }

    #[test]
    fn a_component_has_one_color_in_all_plots_and_cores_are_a_bound() {
        let all = plots(&sample::report());
        let (cpu, memory) = (find(&all, "CPU by component").unwrap(), find(&all, "Memory by component").unwrap());
        for (left, right) in cpu.lines.iter().zip(&memory.lines) {
            assert_eq!((&left.name, left.color), (&right.name, right.color));
        }
        let cores = cpu.lines.last().unwrap();
        assert_eq!((cores.color, cores.points[0].1), (BOUND, Some(2.0)));
    }

    #[test]
    fn a_second_without_replies_interrupts_the_latency() {
        let mut report = sample::report();
        report.rows[20].latency = Latency::default();
        let all = plots(&report);
        let latency = find(&all, "Latency of requests").unwrap();
        assert!(latency.lines.iter().all(|line| line.points[20].1.is_none() && line.points[21].1.is_some()));
    }

    #[test]
    fn the_time_that_is_not_measured_is_shaded() {
        let mut report = sample::report();
        let shaded = |report: &Report| find(&plots(report), "Rate").unwrap().shaded.clone();
        assert_eq!(shaded(&report), [(0.0, 10.001)]);
        report.rows[39].measured = false;
        assert_eq!(shaded(&report), [(0.0, 10.001), (39.001, 40.001)]);
        report.rows.drain(..10);
        assert_eq!(shaded(&report), [(39.001, 40.001)]);
    }

    #[test]
    fn a_closed_loop_has_no_send_delay() {
        let mut report = sample::report();
        assert_eq!(names(&percentiles(&report)), ["accepted", "visible after success", "send delay"]);
        report.figures.load.rate_per_second = None;
        assert_eq!(names(&percentiles(&report)), ["accepted", "visible after success"]);
    }
}
