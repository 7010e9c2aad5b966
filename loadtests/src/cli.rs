//! The command line: its words, its defaults, and what is refused as wrong usage.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::error::Failure;
use crate::pair::Compared;
use crate::request::MIN_PAYLOAD_BYTES;
use crate::sample::Component;
use crate::scenario::{Load, Pace, Scenario, Thresholds};
use crate::schedule::Schedule;

/// Most requests of one run: their ids are kept to be compared with the inbox (24 bytes and more each).
const MAX_REQUESTS: u64 = 20_000_000;
/// Longest run in all: times are kept as microseconds in 32 bits.
const MAX_RUN: Duration = Duration::from_secs(70 * 60);
/// Longest closed run, whose number of requests nothing else bounds.
const MAX_CLOSED_RUN: Duration = Duration::from_secs(120);
/// Largest payload the product takes.
const MAX_PAYLOAD_BYTES: usize = 256 * 1024;

/// Measures Triggers under load, counts what was stored, and compares with bare loops.
#[derive(Parser)]
#[command(name = "loadtests", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Subcommand)]
pub enum Command {
    /// Put a running system under load and count what it stored.
    Run(RunArgs),
    /// Measure a bare loop with the same generator.
    #[command(subcommand)]
    Bare(BareCommand),
    /// Product and bare loop in turns, and the ratio of their medians.
    Pair(PairArgs),
    /// The process of a bare loop; started by `bare` and `pair`.
    #[command(hide = true)]
    BareServer(BareServerArgs),
}

/// Which bare loop.
#[derive(Subcommand)]
pub enum BareCommand {
    /// Parses the JSON and answers.
    Http(BareHttpArgs),
    /// The same, and one Kafka producer with acks from all replicas.
    Produce(BareProduceArgs),
}

/// The shape of the load.
#[derive(Args, Clone)]
pub struct LoadArgs {
    /// Requests per second.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=200_000))]
    pub rate: Option<u64>,
    /// Time that is measured: 90, 90s, 5m, 500ms.
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
    /// Time before it that is not counted: the rate rises (open) or the system warms up (closed).
    #[arg(long, value_parser = duration)]
    pub ramp: Option<Duration>,
    /// Exact size of each payload's JSON text.
    #[arg(long, default_value_t = 600)]
    pub payload_bytes: usize,
    /// Organizations that take turns.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub orgs: Option<u32>,
    /// Give every event a dedup_id of its own.
    #[arg(long)]
    pub keyed: bool,
    /// Connections: the bound of requests in flight (open model).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub connections: Option<u32>,
    /// Closed loop: send as soon as the last reply is there.
    #[arg(long, conflicts_with_all = ["rate", "connections"])]
    pub closed: bool,
    /// Requests in flight in the closed loop.
    #[arg(long, default_value_t = 256, requires = "closed", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub concurrency: u32,
    /// How long a reply may take.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub timeout_ms: u64,
    /// Threads that drive the connections.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub client_threads: u8,
    /// Folder of the report [default: loadtests/reports/TIME-NAME].
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// Which system.
#[derive(Args, Clone)]
pub struct SystemArgs {
    /// Base URL [default: from dev.json in the data folder].
    #[arg(long, env = "TRIGGERS_URL")]
    pub url: Option<String>,
    /// Send for this key's organization instead of making organizations.
    #[arg(long, env = "TRIGGERS_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// Makes organizations [default: from dev.json].
    #[arg(long, env = "TRIGGERS_OPERATOR_TOKEN", hide_env_values = true)]
    pub operator_token: Option<String>,
    /// Data folder of `triggers up`.
    #[arg(long, default_value = ".triggers")]
    pub data_dir: PathBuf,
    /// Allow a system that is not on this machine.
    #[arg(long)]
    pub allow_remote: bool,
    /// How long accepted events may take to appear after the last reply.
    #[arg(long, default_value = "120s", value_parser = duration)]
    pub settle: Duration,
    /// A component's process, NAME=PID; triggers, kafka and postgres are found by their ports.
    #[arg(long = "pid", value_parser = component)]
    pub pids: Vec<Component>,
}

/// `run`.
#[derive(Args)]
pub struct RunArgs {
    /// Named load; its figures can be overridden one by one.
    #[arg(long, value_enum, default_value = "smoke")]
    pub scenario: Scenario,
    /// The system.
    #[command(flatten)]
    pub system: SystemArgs,
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Bars.
    #[command(flatten)]
    pub bars: BarArgs,
}

/// Bars that replace the scenario's.
#[derive(Args, Clone)]
pub struct BarArgs {
    /// Errors at most, percent.
    #[arg(long)]
    pub max_error_percent: Option<f64>,
    /// p95 at most, milliseconds.
    #[arg(long)]
    pub p95_ms: Option<f64>,
    /// p99 at most, milliseconds.
    #[arg(long)]
    pub p99_ms: Option<f64>,
    /// p95 of the time from success to visible at most, milliseconds.
    #[arg(long)]
    pub visible_p95_ms: Option<f64>,
}

/// `bare http`.
#[derive(Args)]
pub struct BareHttpArgs {
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Worker threads of the loop [default: one per core].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub server_threads: Option<u8>,
}

/// `bare produce`.
#[derive(Args)]
pub struct BareProduceArgs {
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// The producer.
    #[command(flatten)]
    pub producer: ProducerArgs,
    /// Data folder of `triggers up`.
    #[arg(long, default_value = ".triggers")]
    pub data_dir: PathBuf,
}

/// The bare loop's producer.
#[derive(Args, Clone)]
pub struct ProducerArgs {
    /// Bootstrap servers [default: from dev.json].
    #[arg(long)]
    pub brokers: Option<String>,
    /// Linger.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub linger_ms: u32,
    /// Worker threads of the loop [default: one per core].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub server_threads: Option<u8>,
}

/// `pair`.
#[derive(Args)]
pub struct PairArgs {
    /// s1: closed loop, accepted/s. s2: 10,000/s, p95.
    #[arg(long, value_enum)]
    pub scenario: Compared,
    /// Runs of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub rounds: u8,
    /// The system.
    #[command(flatten)]
    pub system: SystemArgs,
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// The bare loop's producer.
    #[command(flatten)]
    pub producer: ProducerArgs,
}

/// `bare-server`.
#[derive(Args)]
pub struct BareServerArgs {
    /// Worker threads.
    #[arg(long)]
    pub threads: usize,
    /// Bootstrap servers; without them nothing is produced.
    #[arg(long, requires = "topic")]
    pub brokers: Option<String>,
    /// Topic to produce to.
    #[arg(long, requires = "brokers")]
    pub topic: Option<String>,
    /// Linger.
    #[arg(long, default_value_t = 2)]
    pub linger_ms: u32,
}

/// A load's figures where the command line names none.
#[derive(Clone, Copy)]
struct Defaults {
    rate: u64,
    ramp: Duration,
    hold: Duration,
    organizations: usize,
    connections: usize,
}

impl LoadArgs {
    /// The load of `scenario`, with what the command line overrides.
    pub fn of_scenario(&self, scenario: Scenario) -> Result<Load, Failure> {
        let (rate, ramp, hold, organizations, connections) = scenario.shape();
        self.load(Defaults { rate, ramp, hold, organizations, connections })
    }

    /// The load of a bare loop.
    pub fn of_bare(&self) -> Result<Load, Failure> {
        let seconds = Duration::from_secs;
        self.load(Defaults { rate: 10_000, ramp: seconds(10), hold: seconds(60), organizations: 1_000, connections: 256 })
    }

    /// The load of a comparison.
    pub fn of_pair(&self, compared: Compared) -> Result<Load, Failure> {
        match (compared, self.closed, self.rate) {
            (Compared::S1, _, Some(_)) => Err(Failure::Usage("s1 is a closed loop: it has no --rate".to_owned())),
            (Compared::S2, true, _) => Err(Failure::Usage("s2 is the open model: it cannot be --closed".to_owned())),
            (Compared::S1, _, None) => Self { closed: true, ..self.clone() }.of_bare(),
            (Compared::S2, false, _) => self.of_bare(),
        }
    }

    fn load(&self, defaults: Defaults) -> Result<Load, Failure> {
        let refuse = |text: String| Err(Failure::Usage(text));
        if !(MIN_PAYLOAD_BYTES..=MAX_PAYLOAD_BYTES).contains(&self.payload_bytes) {
            return refuse(format!("--payload-bytes must be {MIN_PAYLOAD_BYTES} to {MAX_PAYLOAD_BYTES}"));
        }
        let (pace, measured) = if self.closed {
            let (warm_up, measured) = (self.ramp.unwrap_or(Duration::from_secs(5)), self.duration.unwrap_or(Duration::from_secs(20)));
            if warm_up + measured > MAX_CLOSED_RUN {
                return refuse(format!("a closed run lasts {} s at most", MAX_CLOSED_RUN.as_secs()));
            }
            (Pace::Closed { warm_up, measured }, measured)
        } else {
            let (ramp, hold) = (self.ramp.unwrap_or(defaults.ramp), self.duration.unwrap_or(defaults.hold));
            let schedule = Schedule::new(self.rate.unwrap_or(defaults.rate), ramp, hold);
            if ramp + hold > MAX_RUN || schedule.total() > MAX_REQUESTS {
                return refuse(format!("a run has {MAX_REQUESTS} requests and lasts {} min at most", MAX_RUN.as_secs() / 60));
            }
            (Pace::Open(schedule), hold)
        };
        if measured.is_zero() {
            return refuse("--duration must be more than nothing".to_owned());
        }
        let connections =
            if self.closed { self.concurrency as usize } else { self.connections.map_or(defaults.connections, |n| n as usize) };
        Ok(Load {
            pace,
            measured,
            connections,
            payload_bytes: self.payload_bytes,
            organizations: self.orgs.map_or(defaults.organizations, |n| n as usize),
            keyed: self.keyed,
            timeout: Duration::from_millis(self.timeout_ms),
            client_threads: usize::from(self.client_threads).min(connections),
        })
    }
}

impl RunArgs {
    /// The scenario's bars, with what the command line overrides. A closed loop has no bars but errors, unless they are given.
    pub fn thresholds(&self) -> Thresholds {
        let own = if self.load.closed { Thresholds::none() } else { self.scenario.thresholds() };
        Thresholds {
            max_error_percent: self.bars.max_error_percent.unwrap_or(own.max_error_percent),
            p95_ms: self.bars.p95_ms.or(own.p95_ms),
            p99_ms: self.bars.p99_ms.or(own.p99_ms),
            max_ms: own.max_ms,
            visible_p95_ms: self.bars.visible_p95_ms.or(own.visible_p95_ms),
        }
    }

    /// Name of the run in its report.
    pub fn name(&self) -> String {
        let closed = if self.load.closed { "closed" } else { self.scenario.name() };
        format!("{closed}{}", if self.load.keyed { "-keyed" } else { "" })
    }
}

/// A duration: seconds, or a number with `ms`, `s` or `m`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| "not a duration: say 90, 90s, 5m or 500ms".to_owned())?;
    let millis = match &text[digits.len()..] {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        _ => None,
    };
    millis
        .filter(|millis| *millis <= 24 * 3_600_000)
        .map(Duration::from_millis)
        .ok_or_else(|| "say 90, 90s, 5m or 500ms; a day at most".to_owned())
}

fn component(text: &str) -> Result<Component, String> {
    let (name, pid) = text.split_once('=').ok_or("say NAME=PID")?;
    let sane = !name.is_empty() && name.chars().all(|character| character.is_ascii_alphanumeric() || character == '-' || character == '_');
    match (sane, pid.parse()) {
        (true, Ok(pid)) => Ok(Component { name: name.to_owned(), pid }),
        _ => Err("say NAME=PID".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run_args(line: &str) -> RunArgs {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Run(arguments) => arguments,
            _ => panic!("not a run"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_scenario_has_its_figures_and_the_command_line_overrides_them() {
        let arguments = run_args("loadtests run --scenario full --rate 2000 --duration 1m");
        let load = arguments.load.of_scenario(arguments.scenario).unwrap();
        let Pace::Open(schedule) = load.pace else { panic!("not open") };
        assert_eq!(schedule, Schedule::new(2_000, Duration::from_secs(60), Duration::from_secs(60)));
        assert_eq!((load.connections, load.organizations, load.payload_bytes), (256, 1_000, 600));
        assert_eq!(arguments.thresholds().p95_ms, Some(10.0));
    }

    #[test]
    fn a_closed_run_has_a_concurrency_and_no_rate() {
        let arguments = run_args("loadtests run --closed --concurrency 64 --duration 20s");
        let load = arguments.load.of_scenario(arguments.scenario).unwrap();
        assert!(matches!(load.pace, Pace::Closed { measured, .. } if measured == Duration::from_secs(20)));
        assert_eq!(load.connections, 64);
        assert_eq!(arguments.thresholds().p95_ms, None);
        assert!(Cli::try_parse_from("loadtests run --closed --rate 5".split(' ')).is_err());
    }

    #[test]
    fn what_would_not_end_or_not_fit_is_wrong_usage() {
        for line in [
            "loadtests run --duration 200m",
            "loadtests run --rate 200000 --duration 30m",
            "loadtests run --payload-bytes 5",
            "loadtests run --duration 0",
        ] {
            let arguments = run_args(line);
            assert!(matches!(arguments.load.of_scenario(arguments.scenario), Err(Failure::Usage(_))), "{line}");
        }
        assert!(run_args("loadtests run").load.of_pair(Compared::S1).is_ok());
        assert!(run_args("loadtests run --rate 5").load.of_pair(Compared::S1).is_err());
    }

    #[test]
    fn durations_are_read_in_their_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "s", "5h", "-1", "1.5s", "99999999999999999999"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
