//! `--dry-run`: what a command would run, as text. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use clap::ValueEnum;

use crate::cli::RunArgs;
use crate::scenario::{Load, Pace, Scenario, Thresholds};
use crate::suite;

/// What `bench run` would run.
pub(crate) fn of_run(arguments: &RunArgs, load: &Load) -> String {
    let system = &arguments.system;
    let mut text = format!("scenario {}\n", arguments.name());
    let target = system.url.clone().unwrap_or_else(|| format!("of {}/dev.json", system.data_dir.display()));
    writeln!(text, "target: {target}").ok();
    match arguments.scenario {
        Scenario::Catchup => writeln!(text, "runs step s8 of `bench all` on a system of its own").ok(),
        Scenario::Connections => writeln!(text, "connections: no schedule; expected time: a minute").ok(),
        Scenario::Deliver => writeln!(text, "each event is one webhook of its organization's endpoint").ok(),
        _ => None,
    };
    if !matches!(arguments.scenario, Scenario::Catchup | Scenario::Connections) {
        text.push_str(&of_load(load));
        writeln!(text, "thresholds: {}", of_thresholds(&arguments.thresholds())).ok();
    }
    text
}

/// What `bench all` would run.
pub(crate) fn of_all(options: &suite::Options) -> String {
    let mut text = format!("program: {}\n", options.turns.program.display());
    writeln!(text, "results: {}", options.results.display()).ok();
    writeln!(text, "warm-up {:?}, rounds of each step: {}", options.turns.warm_up, options.turns.rounds).ok();
    writeln!(text, "each run, unless its step says otherwise: {:?} after {:?}", options.measured, options.ramp).ok();
    for step in &options.steps {
        let value = step.to_possible_value();
        let help = value.as_ref().and_then(|value| value.get_help()).map(ToString::to_string).unwrap_or_default();
        writeln!(text, "  {help}").ok();
    }
    text
}

fn of_load(load: &Load) -> String {
    let mut text = String::new();
    let (requests, time) = match load.pace {
        Pace::Open(schedule) => {
            let at = |(rate, hold): (u64, Duration)| format!("{rate}/s for {hold:?}");
            let phases: Vec<String> = schedule.phases().map(at).collect();
            writeln!(text, "schedule: ramp of {:?}, then {}", schedule.ramp(), phases.join(", ")).ok();
            (Some(schedule.total()), schedule.ramp() + schedule.hold())
        }
        Pace::Closed { warm_up, measured } => {
            writeln!(text, "schedule: closed loop, {measured:?} after {warm_up:?}").ok();
            (None, warm_up + measured)
        }
    };
    let events = requests.map_or_else(
        || "as many as are answered".to_owned(),
        |requests| format!("{}, in {requests} requests", requests * load.batch_events as u64),
    );
    writeln!(text, "events: {events}; payload {} bytes, {} types", load.payload_bytes, load.event_types).ok();
    writeln!(text, "before: {} events are put into one inbox", load.preload_events).ok();
    writeln!(text, "reads: {}/s", load.reads_per_second).ok();
    let (organizations, connections) = (load.organizations, load.connections);
    writeln!(text, "organizations: {organizations}, connections: {connections}").ok();
    writeln!(text, "expected time: {time:?}, and the count of the events afterwards").ok();
    text
}

fn of_thresholds(thresholds: &Thresholds) -> String {
    let bars = [
        ("p95", thresholds.p95_ms),
        ("p99", thresholds.p99_ms),
        ("max", thresholds.max_ms),
        ("visible p95", thresholds.visible_p95_ms),
        ("p95 of reads", thresholds.read_p95_ms),
        ("p99 of reads", thresholds.read_p99_ms),
    ];
    let mut text = format!("errors <= {} %", thresholds.max_error_percent);
    for (name, bar) in bars {
        if let Some(ms) = bar {
            write!(text, ", {name} <= {ms} ms").ok();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn run(line: &str) -> String {
        let Command::Run(arguments) = Cli::try_parse_from(line.split(' ')).unwrap().command else { panic!("a run") };
        let load = arguments.load.of_scenario(arguments.scenario).unwrap();
        of_run(&arguments, &load)
    }

    #[test]
    fn a_dry_run_has_schedule_target_thresholds_events_and_time() {
        let text = run("bench run --scenario mixed --dry-run --url http://127.0.0.1:1 --preload-events 1000");
        for part in [
            "target: http://127.0.0.1:1\n",
            "ramp of 10s, then 4000/s for 120s\n",
            "events: 500000, in 500000 requests; payload 600 bytes, 4 types\n",
            "before: 1000 events",
            "reads: 1000/s\n",
            "expected time: 130s",
            "p95 of reads <= 5 ms",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(run("bench run --scenario batch --dry-run").contains("events: 2250000, in 22500 requests"));
    }
}
