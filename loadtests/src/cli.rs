//! The command line: its words and their defaults. What load they make is said in `load`.

mod load;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub use self::load::LoadArgs;
pub use self::load::duration;
use crate::faults::FaultArgs;
use crate::pair::Compared;
use crate::sample::Component;
use crate::scenario::{Scenario, Thresholds};

/// Measures Triggers under load, counts what was stored, and compares with bare loops.
#[derive(Parser)]
#[command(name = "loadtests", version, args_override_self = true)]
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
    /// Break parts of a system of its own under load, and count what it kept.
    Faults(FaultArgs),
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
    /// The view's database, for the time to visible [default: from dev.json].
    #[arg(long)]
    pub database_url: Option<String>,
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

impl RunArgs {
    /// The scenario's bars, with what the command line overrides. A closed loop has no bars but errors, unless they are
    /// given; a system named without its database has none for visibility, which cannot be measured there.
    pub fn thresholds(&self) -> Thresholds {
        let own = if self.load.closed { Thresholds::none() } else { self.scenario.thresholds() };
        let blind = self.system.url.is_some() && self.system.database_url.is_none();
        Thresholds {
            max_error_percent: self.bars.max_error_percent.unwrap_or(own.max_error_percent),
            p95_ms: self.bars.p95_ms.or(own.p95_ms),
            p99_ms: self.bars.p99_ms.or(own.p99_ms),
            max_ms: own.max_ms,
            visible_p95_ms: self.bars.visible_p95_ms.or(own.visible_p95_ms.filter(|_| !blind)),
        }
    }

    /// Name of the run in its report.
    pub fn name(&self) -> String {
        let closed = if self.load.closed { "closed" } else { self.scenario.name() };
        format!("{closed}{}", if self.load.keyed { "-keyed" } else { "" })
    }
}

fn component(text: &str) -> Result<Component, String> {
    let (name, pid) = text.split_once('=').ok_or("say NAME=PID")?;
    let sane = !name.is_empty()
        && name.chars().all(|character| character.is_ascii_alphanumeric() || character == '-' || character == '_');
    match (sane, pid.parse()) {
        (true, Ok(pid)) => Ok(Component { name: name.to_owned(), pid }),
        _ => Err("say NAME=PID".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Pace;
    use crate::schedule::Schedule;
    use clap::CommandFactory;

    pub(super) fn run_args(line: &str) -> RunArgs {
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
    }
}
