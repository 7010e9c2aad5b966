//! The report of a run as one HTML page: the verdict, what limits, plots, and the environment. It needs no script and
//! no other file.
//!
//! The plots are in `series` and `plot`, the style is in `page.css`.

use loadkit::RunEnvironment;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use plotters::style::RGBColor;

use crate::bottleneck::find;
use crate::figures::{Figures, LoadSummary};
use crate::plot::{Plot, hex, thousands};
use crate::recorder::Latency;
use crate::report::Report;
use crate::series::plots;

/// The page of `report`.
pub(crate) fn render(report: &Report) -> anyhow::Result<String> {
    let figures = &report.figures;
    let plots = plots(report).iter().map(figure).collect::<anyhow::Result<Vec<Markup>>>()?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (report.name) ": " (verdict(report)) }
                style { (PreEscaped(include_str!("page.css"))) }
            }
            body {
                (headline(report))
                h2 { "Thresholds" }
                (thresholds(report))
                h2 { "Plots" }
                p.faint { "Shaded: not measured. series.csv has the same figures, one row per second." }
                div.plots { @for plot in &plots { (plot) } }
                div.tables {
                    section { h2 { "CPU and memory" } div.wide { (components(figures)) } }
                    section { h2 { "Latency" } div.wide { (latencies(figures)) } }
                    section { h2 { "Requests" } (requests(figures)) }
                    section { h2 { "Environment" } (environment(report)) }
                }
                (files())
            }
        }
    };
    Ok(page.into_string())
}

fn verdict(report: &Report) -> &'static str {
    if report.passed { "passed" } else { "missed" }
}

fn headline(report: &Report) -> Markup {
    let figures = &report.figures;
    let findings = find(figures, &report.rows, report.environment.cores);
    let seen = figures.visibility.as_ref().filter(|visibility| visibility.latency.count > 0);
    html! {
        div.head {
            h1 { (report.name) }
            span.verdict.good[report.passed].bad[!report.passed] { (verdict(report)) }
            span.faint { (started_at(&report.environment)) }
        }
        p.faint { (load(&figures.load)) }
        @if !report.environment.optimized_generator {
            p.bad { "The generator is not an optimized build: the latencies are meaningless." }
        }
        @if let Some(reason) = &figures.stopped { p.bad { "Stopped early: " (reason) "." } }
        div.cards {
            (card("accepted per second", &thousands(figures.accepted_per_second)))
            (card("p95", &ms(figures.latency.p95_ms)))
            (card("p99", &ms(figures.latency.p99_ms)))
            (card("visible p95", &seen.map_or_else(not_measured, |seen| ms(seen.latency.p95_ms))))
            (card("errors", &percent(figures)))
        }
        div.limit {
            @for (index, finding) in findings.iter().enumerate() {
                @if index == 0 { p { "What limits: " b { (finding.text) } } } @else { p { "Also: " (finding.text) } }
            }
        }
    }
}

/// The start of the run, to the second.
fn started_at(environment: &RunEnvironment) -> String {
    let text = &environment.started_at;
    text.split_once('.').map_or_else(|| text.clone(), |(seconds, _)| format!("{seconds}Z"))
}

fn card(name: &str, value: &str) -> Markup {
    html! { div.card { span.faint { (name) } b { (value) } } }
}

fn load(load: &LoadSummary) -> String {
    let pace = match load.rate_per_second {
        Some(rate) => format!("Open model: {} requests/s", thousands(rate as f64)),
        None => "Closed loop".to_owned(),
    };
    let events =
        if load.batch_events > 1 { format!("{} events a request, ", load.batch_events) } else { String::new() };
    format!(
        "{pace} for {} s, after {} s that are not measured; {events}{} connections, payload {} bytes, \
         {} types, {} organizations, {} dedup ids, {} reads/s.",
        load.measured_seconds,
        load.not_counted_seconds,
        load.connections,
        load.payload_bytes,
        load.event_types,
        thousands(load.organizations as f64),
        if load.keyed { "with" } else { "without" },
        load.reads_per_second
    )
}

fn thresholds(report: &Report) -> Markup {
    html! {
        div.wide { table {
            tr { th { "what" } th { "threshold" } th { "found" } th { "result" } }
            @for check in &report.checks {
                tr {
                    td { (check.name) }
                    td { (check.threshold) }
                    td { (check.found) }
                    td.good[check.passed].bad[!check.passed] { @if check.passed { "ok" } @else { "missed" } }
                }
            }
        } }
        @for example in report.figures.inbox.iter().flat_map(|inbox| &inbox.examples) { p { (example) } }
    }
}

/// A plot with its title and legend.
fn figure(plot: &Plot) -> anyhow::Result<Markup> {
    let svg = plot.svg()?;
    Ok(html! {
        figure {
            figcaption {
                h3 { (plot.title) }
                ul.legend { @for line in &plot.lines { li { (key(line.color)) (line.name) } } }
            }
            div role="img" aria-label=(plot.title) { (PreEscaped(svg)) }
        }
    })
}

/// The line of a legend.
fn key(color: RGBColor) -> Markup {
    html! {
        svg viewBox="0 0 26 8" aria-hidden="true" { line x1="0" y1="4" x2="26" y2="4" stroke=(hex(color)) {} }
    }
}

fn components(figures: &Figures) -> Markup {
    let per_event = &figures.cpu_us_per_event;
    let cores: f64 = figures.components.values().map(|used| used.cpu_cores).sum();
    let memory: f64 = figures.components.values().map(|used| used.memory_mib).sum();
    let per_event_text = |name: &str| per_event.get(name).map_or_else(not_measured, |micros| format!("{micros:.1}"));
    html! {
        @if figures.components.is_empty() { p { "No process was measured." } } @else {
            table {
                tr {
                    th { "component" }
                    th.number { "cores" }
                    th.number { "CPU µs per event" }
                    th.number { "memory MiB" }
                }
                @for (name, used) in &figures.components {
                    tr {
                        td { (name) }
                        td.number { (format!("{:.2}", used.cpu_cores)) }
                        td.number { (per_event_text(name)) }
                        td.number { (thousands(used.memory_mib)) }
                    }
                }
                tr {
                    th { "all" }
                    th.number { (format!("{cores:.2}")) }
                    th.number { (format!("{:.1}", per_event.values().sum::<f64>())) }
                    th.number { (thousands(memory)) }
                }
            }
            p.faint {
                "Mean cores and highest memory of the measured part. CPU of each accepted event: from the first \
                 request until every event was applied."
            }
        }
    }
}

fn latencies(figures: &Figures) -> Markup {
    type Figure = fn(&Latency) -> f64;
    let mut columns = vec![("accepted", figures.latency), ("send delay", figures.send_delay)];
    columns.extend(figures.visibility.as_ref().map(|seen| ("visible", seen.latency)));
    columns.extend(figures.reads.iter().map(|read| (read.kind.as_str(), read.latency)));
    let rows: [(&str, Figure); 7] = [
        ("mean", |latency| latency.mean_ms),
        ("p50", |latency| latency.p50_ms),
        ("p95", |latency| latency.p95_ms),
        ("p99", |latency| latency.p99_ms),
        ("p99.9", |latency| latency.p999_ms),
        ("p99.99", |latency| latency.p9999_ms),
        ("max", |latency| latency.max_ms),
    ];
    html! {
        table {
            tr { th { "ms" } @for (name, _) in &columns { th.number { (name) } } }
            @for (name, figure) in rows {
                tr { td { (name) } @for (_, latency) in &columns { td.number { (milliseconds(figure(latency))) } } }
            }
            tr { td { "count" } @for (_, latency) in &columns { td.number { (thousands(latency.count as f64)) } } }
        }
        p.faint {
            "Accepted: from the intended time. Send delay: how late the generator sent. Visible: from success, of a "
            "sample of the events."
        }
    }
}

fn requests(figures: &Figures) -> Markup {
    let row = |name: &str, count: u64| html! { tr { td { (name) } td.number { (thousands(count as f64)) } } };
    html! {
        table {
            tr { th { "what" } th.number { "count" } }
            (row("requests measured", figures.requests))
            (row("errors measured", figures.errors))
            (row("never sent", figures.never_sent))
            @for (outcome, count) in &figures.outcomes { (row(&format!("outcome {outcome}, whole run"), *count)) }
            @if let Some(inbox) = &figures.inbox {
                (row("inbox: accepted", inbox.accepted))
                (row("inbox: stored", inbox.stored))
                (row("inbox: missing", inbox.missing))
                (row("inbox: duplicates", inbox.duplicates))
                (row("inbox: unexpected", inbox.unexpected))
                (row("inbox: misordered", inbox.misordered))
            }
            @if let Some(log) = &figures.log {
                (row("log: accepted", log.accepted))
                (row("log: appended", log.appended))
            }
            @if let Some(seen) = &figures.visibility {
                (row("sampled events never visible", seen.never_visible))
                (row("events dropped from the sample", seen.dropped))
            }
        }
    }
}

fn environment(report: &Report) -> Markup {
    let environment = &report.environment;
    let row = |name: &str, value: &str| html! { tr { td { (name) } td { (value) } } };
    html! {
        table {
            (row("processor", &environment.cpu))
            (row("cores", &environment.cores.to_string()))
            (row("memory", &format!("{} MiB", thousands(environment.memory_mib as f64))))
            (row("kernel", &environment.kernel))
            (row("bench", &environment.version))
            @for (name, version) in &environment.versions { (row(name, version)) }
            tr {
                td { "commit" }
                td { code { (environment.commit) } @if environment.uncommitted_changes { " with uncommitted changes" } }
            }
            tr { td { "command" } td { code { (environment.command.join(" ")) } } }
        }
    }
}

fn files() -> Markup {
    html! {
        p.faint {
            "Files of this run: "
            @for (index, name) in ["report.json", "series.csv", "stats.csv", "failures.csv"].iter().enumerate() {
                @if index > 0 { ", " }
                a href=(name) { (name) }
            }
            "."
        }
    }
}

/// Without a unit, for a table of milliseconds.
fn milliseconds(value: f64) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.2}") }
}

fn ms(value: f64) -> String {
    if value.is_nan() {
        return not_measured();
    }
    if value < 100.0 { format!("{value:.2} ms") } else { format!("{} ms", thousands(value)) }
}

fn percent(figures: &Figures) -> String {
    if figures.errors == 0 { "0".to_owned() } else { format!("{:.3} %", figures.error_percent) }
}

fn not_measured() -> String {
    "not measured".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::ComponentFigures;
    use crate::sample;

    #[test]
    fn the_page_has_each_figure() {
        let report = sample::report();
        let page = render(&report).unwrap();
        for expected in [
            "full: missed",
            "9,998",
            "8.50 ms",
            "21.75 ms",
            "25.50 ms",
            "0.002 %",
            "nothing: the load was carried with 0.80 of 2 cores idle",
            "&lt;= 20 ms",
            "21.750 ms",
            "outcome status_503, whole run",
            "50.0",
            "Example CPU @ 2.50GHz",
            "7,936 MiB",
            "17.2",
            "0123456789abcdef0123456789abcdef01234567",
            "with uncommitted changes",
            "bench run --scenario full --url http://127.0.0.1:8080",
            "2026-01-02T03:04:05Z",
            "Open model: 10,000 requests/s for 30 s, after 10 s that are not measured; 256 connections",
        ] {
            assert!(page.contains(expected), "{expected} is not on the page");
        }
        let (mut passed, mut stopped) = (sample::report(), sample::report());
        passed.passed = true;
        assert!(render(&passed).unwrap().contains("full: passed"));
        stopped.figures.stopped = Some("interrupted".to_owned());
        assert!(render(&stopped).unwrap().contains("Stopped early: interrupted."));
    }

    #[test]
    fn names_and_commands_are_escaped() {
        let mut report = sample::report();
        let evil = "<script>alert(1)</script>\"&";
        report.name = evil.to_owned();
        report.environment.command = vec![evil.to_owned()];
        report.figures.components.insert(evil.to_owned(), ComponentFigures::default());
        report.rows[3].components.insert(evil.to_owned(), (0.1, 1.0));
        report.rows[3].lag_records.insert(evil.to_owned(), 1);
        report.checks[0].found = evil.to_owned();
        let page = render(&report).unwrap();
        assert!(!page.contains("<script"), "a name became an element");
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&amp;"));
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        let page = render(&sample::report()).unwrap();
        for loads in ["src=", "href=\"http", "href=\"//", "url(", "@import", "<script", "<link", "<iframe", "<object"] {
            assert!(!page.contains(loads), "the page loads something: {loads}");
        }
        // The name of the SVG format and the command are the only addresses.
        let addresses = page.matches("http").count();
        let harmless = page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count() + 1;
        assert_eq!(addresses, harmless);
    }

    #[test]
    fn every_plot_has_a_title_a_legend_and_axis_titles() {
        let report = sample::report();
        let page = render(&report).unwrap();
        let figures: Vec<&str> = page.split("<figure>").skip(1).collect();
        let plots = plots(&report);
        assert!(plots.len() >= 7, "{}", plots.len());
        assert_eq!(figures.len(), plots.len());
        for (html, plot) in figures.iter().zip(&plots) {
            assert!(html.contains(&format!("<h3>{}</h3>", plot.title)), "{}", plot.title);
            assert!(html.contains("<polyline") && html.contains(plot.vertical), "{}", plot.title);
            for line in &plot.lines {
                assert!(html.contains(&format!("</svg>{}</li>", line.name)), "{}", line.name);
            }
        }
    }

    #[test]
    fn an_empty_run_has_a_page() {
        let mut report = sample::report();
        report.rows.clear();
        report.figures.components.clear();
        report.figures.requests = 0;
        report.figures.visibility = None;
        let page = render(&report).unwrap();
        assert!(page.contains("unknown: no request was measured") && page.contains("not measured"));
    }
}
