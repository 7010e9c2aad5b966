//! The command line and its defaults. The options of the load are in `load`, those of `peer` in `peer`.

mod load;
mod peer;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use loadkit::duration;
use runtime::config::secret;

pub(crate) use self::load::LoadArgs;
pub(crate) use self::peer::{PeerArgs, PeerName};
use crate::deliver::endpoints::Bad;
use crate::process_usage::Component;
use crate::results::FOLDER;
use crate::scale::Dimension;
use crate::scenario::{Scenario, Thresholds};
use crate::suite::Step;
use crate::threads;
use crate::turns::TurnOptions;

/// Measures Triggers under load, counts the stored events, and compares with bare loops.
#[derive(Parser)]
#[command(name = "bench", version, args_override_self = true)]
pub(crate) struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Put a running system under load and count the stored events.
    Run(RunArgs),
    /// Measure a bare loop with the same generator.
    #[command(subcommand)]
    Bare(BareCommand),
    /// Start processes of the role ingest and put each rate limit under load.
    Limits(LimitsArgs),
    /// Start a system, and report the CPU of an event by component, beside the bare pipeline.
    Cost(CostArgs),
    /// Start systems, and report what changes with instances, partitions, organizations, shares and payload.
    Scale(ScaleArgs),
    /// Start a system, and print every figure of the table of targets beside its bare loop; keep them for this commit.
    All(AllArgs),
    /// Name what changed between the results of two commits by more than the noise; exit code 1 if something got worse.
    Compare(CompareArgs),
    /// Write the results of a commit as a document.
    Report(ReportArgs),
    /// Deliver webhooks to receivers in this process; count what arrives, and when.
    Deliver(DeliverArgs),
    /// Run the product with rate limits on and off in turns; report CPU and latency of both.
    LimitCost(LimitCostArgs),
    /// Start another system, and measure it with the same generator.
    Peer(PeerArgs),
    /// The process of a bare loop; started by `bare` and others.
    #[command(hide = true)]
    BareServer(BareServerArgs),
    /// The second process of the bare pipeline; started by `bare` and `cost`.
    #[command(hide = true)]
    BareWriter(BareWriterArgs),
    /// The process of the bare client of webhooks; started by `deliver`.
    #[command(hide = true)]
    BareSender(BareSenderArgs),
}

/// The bare loops.
#[derive(Subcommand)]
pub(crate) enum BareCommand {
    /// Parses the JSON and answers.
    Http(BareHttpArgs),
    /// The same, and one Kafka producer with acks from all replicas.
    Produce(BareProduceArgs),
    /// The same, and a second process that writes the records into the product's own tables; starts its own servers.
    Pipeline(BarePipelineArgs),
    /// Writes rows into the product's own tables, without a log; starts its own servers.
    Upsert(BareUpsertArgs),
    /// Signs and posts webhooks, without a log.
    Post(BarePostArgs),
}

/// The binary of the product.
#[derive(Args, Clone)]
pub(crate) struct ProgramArgs {
    /// The program `triggers`.
    #[arg(long, default_value = "target/release/triggers")]
    pub triggers: PathBuf,
}

/// `bare pipeline`.
#[derive(Args)]
pub(crate) struct BarePipelineArgs {
    /// The program, which creates the tables.
    #[command(flatten)]
    pub program: ProgramArgs,
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// The producer.
    #[command(flatten)]
    pub producer: LoopArgs,
}

/// `bare upsert`.
#[derive(Args)]
pub(crate) struct BareUpsertArgs {
    /// The program, which creates the tables.
    #[command(flatten)]
    pub program: ProgramArgs,
    /// The load: duration, organizations and size of the payload.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// `bare post`.
#[derive(Args)]
pub(crate) struct BarePostArgs {
    /// Requests in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub in_flight: u16,
    /// How long a receiver takes to answer.
    #[arg(long, default_value = "0ms", value_parser = duration)]
    pub answer_after: Duration,
    /// The load: duration, organizations (receivers) and size of the payload.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// The system under load.
#[derive(Args, Clone)]
pub(crate) struct SystemArgs {
    /// Base URL [default: from dev.json in the data folder].
    #[arg(long, env = "TRIGGERS_URL")]
    pub url: Option<String>,
    /// Send for the organization of this key instead of creating organizations.
    #[arg(long, env = "TRIGGERS_API_KEY", hide_env_values = true, value_parser = secret)]
    pub key: Option<String>,
    /// Token to create organizations with [default: from dev.json].
    #[arg(long, env = "TRIGGERS_OPERATOR_TOKEN", hide_env_values = true, value_parser = secret)]
    pub operator_token: Option<String>,
    /// Database of the view, to measure visibility [default: from dev.json].
    #[arg(long, value_parser = secret)]
    pub database_url: Option<String>,
    /// Data folder of `triggers up`.
    #[arg(long, default_value = ".triggers")]
    pub data_dir: PathBuf,
    /// Allow a system on another machine.
    #[arg(long)]
    pub allow_remote: bool,
    /// How long accepted events may take to appear after the last reply.
    #[arg(long, default_value = "120s", value_parser = duration)]
    pub settle: Duration,
    /// Process of a component, NAME=PID; triggers, kafka and postgres are found by their ports.
    #[arg(long = "pid", value_parser = component)]
    pub pids: Vec<Component>,
}

/// `run`.
#[derive(Args)]
pub(crate) struct RunArgs {
    /// Named load; other options override parts of it.
    #[arg(long, value_enum, default_value = "smoke")]
    pub scenario: Scenario,
    /// Print what would run, and end.
    #[arg(long)]
    pub dry_run: bool,
    /// The system.
    #[command(flatten)]
    pub system: SystemArgs,
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Thresholds.
    #[command(flatten)]
    pub thresholds: ThresholdArgs,
}

/// Thresholds that replace those of the scenario.
#[derive(Args, Clone)]
pub(crate) struct ThresholdArgs {
    /// Maximum errors, in percent.
    #[arg(long)]
    pub max_error_percent: Option<f64>,
    /// Maximum p95, in milliseconds.
    #[arg(long)]
    pub p95_ms: Option<f64>,
    /// Maximum p99, in milliseconds.
    #[arg(long)]
    pub p99_ms: Option<f64>,
    /// Maximum p95 of the time from success to visible, in milliseconds.
    #[arg(long)]
    pub visible_p95_ms: Option<f64>,
}

/// `bare http`.
#[derive(Args)]
pub(crate) struct BareHttpArgs {
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Worker threads of the loop [default: one per core].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub server_threads: Option<u8>,
}

/// `bare produce`.
#[derive(Args)]
pub(crate) struct BareProduceArgs {
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
pub(crate) struct ProducerArgs {
    /// Bootstrap servers [default: from dev.json].
    #[arg(long)]
    pub brokers: Option<String>,
    /// How it produces.
    #[command(flatten)]
    pub options: LoopArgs,
}

/// How a bare loop produces.
#[derive(Args, Clone)]
pub(crate) struct LoopArgs {
    /// Linger of the producer, in milliseconds.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub linger_ms: u32,
    /// The producer compresses as the product's does, and so does its topic.
    #[arg(long)]
    pub zstd: bool,
    /// Worker threads of the loop [default: one per core].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub server_threads: Option<u8>,
}

/// Runs on a system that is started for them.
#[derive(Args)]
pub(crate) struct TurnArgs {
    /// The program, of which every role is started.
    #[command(flatten)]
    pub program: ProgramArgs,
    /// Number of runs of each side.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub rounds: u8,
    /// Load before the first measured run, in which Kafka's JVM compiles.
    #[arg(long, default_value = "20s", value_parser = duration)]
    pub warm_up: Duration,
    /// An environment variable of the product, NAME=VALUE.
    #[arg(long = "set", value_parser = setting)]
    pub settings: Vec<(String, String)>,
    /// The bare loop's producer.
    #[command(flatten)]
    pub producer: LoopArgs,
}

/// `all`.
#[derive(Args)]
pub(crate) struct AllArgs {
    /// Folder of the results of each commit.
    #[arg(long, default_value = FOLDER)]
    pub results: PathBuf,
    /// Steps; they run in the order of this list, each once [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub steps: Vec<Step>,
    /// Idle connections of S12; S12 and S18 have a tenth of requests at once and a hundredth of slow readers.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(10..=20_000))]
    pub idle_connections: u16,
    /// Print what would run, and end.
    #[arg(long)]
    pub dry_run: bool,
    /// The runs.
    #[command(flatten)]
    pub turns: TurnArgs,
    /// The load of every step, but its rate: 20 s after a ramp of 5 s, unless options say so.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// `compare`.
#[derive(Args)]
pub(crate) struct CompareArgs {
    /// Commit whose results are kept, or a file of results.
    pub before: String,
    /// The same.
    pub after: String,
}

/// `report`.
#[derive(Args)]
pub(crate) struct ReportArgs {
    /// Commit whose results are kept, or a file of results.
    pub results: String,
    /// The document.
    #[arg(long, default_value = "docs/performance-baseline.md")]
    pub document: PathBuf,
}

/// `cost`.
#[derive(Args)]
pub(crate) struct CostArgs {
    /// Rates per second, one after the other; 0: the closed loop.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,0")]
    pub rates: Vec<u64>,
    /// Run the product only.
    #[arg(long)]
    pub no_bare: bool,
    /// The runs.
    #[command(flatten)]
    pub turns: TurnArgs,
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// `scale`.
#[derive(Args)]
pub(crate) struct ScaleArgs {
    /// What is varied, one after the other [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub dimensions: Vec<Dimension>,
    /// The runs.
    #[command(flatten)]
    pub turns: TurnArgs,
    /// The load, in the closed loop.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// `limits`.
#[derive(Args)]
pub(crate) struct LimitsArgs {
    /// The program whose role ingest is started.
    #[arg(long, default_value = "target/release/triggers")]
    pub triggers: PathBuf,
    /// Data folder of a running `triggers up`, whose Kafka and PostgreSQL are used.
    #[arg(long, default_value = ".triggers")]
    pub data_dir: PathBuf,
    /// Processes.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub processes: u8,
    /// Limits per minute, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000,100000")]
    pub limits: Vec<u32>,
    /// Load in percent of the limit.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(100..=1_000))]
    pub load_percent: u32,
    /// How long each limit is under load.
    #[arg(long, default_value = "130s", value_parser = duration)]
    pub time: Duration,
}

impl LimitsArgs {
    /// The system whose Kafka and PostgreSQL are used.
    pub(crate) fn system(&self) -> SystemArgs {
        SystemArgs {
            url: None,
            key: None,
            operator_token: None,
            database_url: None,
            data_dir: self.data_dir.clone(),
            allow_remote: false,
            settle: Duration::ZERO,
            pids: Vec::new(),
        }
    }
}

/// `limit-cost`.
#[derive(Args)]
pub(crate) struct LimitCostArgs {
    /// The program whose role ingest is started, once with limits and once without.
    #[arg(long, default_value = "target/release/triggers")]
    pub triggers: PathBuf,
    /// Limit of each organization, requests a minute. The load must stay below it.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Number of runs of each side.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub rounds: u8,
    /// The system whose Kafka, PostgreSQL and materializer are used.
    #[command(flatten)]
    pub system: SystemArgs,
    /// The load.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// `deliver`.
#[derive(Args)]
pub(crate) struct DeliverArgs {
    /// Number of runs of each side.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub rounds: u8,
    /// How long a receiver takes to answer.
    #[arg(long, default_value = "0ms", value_parser = duration)]
    pub answer_after: Duration,
    /// Attempts of each endpoint at the same time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub max_in_flight: u8,
    /// Events of one webhook.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub webhook_batch: u16,
    /// Endpoints of a further organization that never answer, hang:COUNT, or answer a byte a second, drip:COUNT; in
    /// every second run.
    #[arg(long)]
    pub bad: Option<Bad>,
    /// Events a second for the bad endpoints.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub bad_rate: u16,
    /// Events with a `dedup_id` a second beside the measured ones, of the same organizations; in every second run.
    #[arg(long, conflicts_with = "bad", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub keyed_beside: Option<u32>,
    /// Run a bare client in turns, with so many requests in flight.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub bare: Option<u16>,
    /// The system.
    #[command(flatten)]
    pub system: SystemArgs,
    /// The load: 2,000/s for 20 s after a ramp of 5 s, 50 organizations, unless other options say so.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// `bare-sender`.
#[derive(Args)]
pub(crate) struct BareSenderArgs {
    /// Base URL of the receiver.
    #[arg(long)]
    pub url: String,
    /// Requests at the same time.
    #[arg(long)]
    pub in_flight: u16,
    /// Size of the data of each.
    #[arg(long)]
    pub payload_bytes: usize,
    /// Paths that are used in turns.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub receivers: u32,
    /// How long it sends.
    #[arg(long)]
    pub seconds: u64,
}

/// `bare-writer`.
#[derive(Args)]
pub(crate) struct BareWriterArgs {
    /// Bootstrap servers.
    #[arg(long)]
    pub brokers: String,
    /// Topic to read.
    #[arg(long)]
    pub topic: String,
}

/// `bare-server`.
#[derive(Args)]
pub(crate) struct BareServerArgs {
    /// Worker threads.
    #[arg(long)]
    pub threads: usize,
    /// Bootstrap servers; without them the loop only answers.
    #[arg(long, requires = "topic")]
    pub brokers: Option<String>,
    /// Topic to produce to.
    #[arg(long, requires = "brokers")]
    pub topic: Option<String>,
    /// Linger of the producer, in milliseconds.
    #[arg(long, default_value_t = 2)]
    pub linger_ms: u32,
    /// The producer compresses.
    #[arg(long)]
    pub zstd: bool,
    /// Records have what the writer of the pipeline needs.
    #[arg(long)]
    pub pipeline: bool,
}

impl TurnArgs {
    pub(crate) fn options(self) -> TurnOptions {
        TurnOptions {
            program: self.program.triggers,
            settings: self.settings,
            rounds: usize::from(self.rounds),
            warm_up: self.warm_up,
            server_threads: self.producer.threads(),
            linger_ms: self.producer.linger_ms,
            zstd: self.producer.zstd,
        }
    }
}

impl LoopArgs {
    /// Worker threads: by default as many as the product has.
    pub(crate) fn threads(&self) -> usize {
        threads(self.server_threads)
    }
}

impl RunArgs {
    /// The thresholds of the scenario, with those of the command line. A closed loop has only the one for errors by
    /// default. Without a database visibility cannot be measured and has no threshold.
    pub(crate) fn thresholds(&self) -> Thresholds {
        let defaults = if self.load.closed { Thresholds::none() } else { self.scenario.thresholds() };
        let has_no_database = self.system.url.is_some() && self.system.database_url.is_none();
        Thresholds {
            max_error_percent: self.thresholds.max_error_percent.unwrap_or(defaults.max_error_percent),
            p95_ms: self.thresholds.p95_ms.or(defaults.p95_ms),
            p99_ms: self.thresholds.p99_ms.or(defaults.p99_ms),
            max_ms: defaults.max_ms,
            read_p95_ms: defaults.read_p95_ms,
            read_p99_ms: defaults.read_p99_ms,
            visible_p95_ms: self.thresholds.visible_p95_ms.or(defaults.visible_p95_ms.filter(|_| !has_no_database)),
        }
    }

    /// Name of the run in its report.
    pub(crate) fn name(&self) -> String {
        let closed = if self.load.closed { "closed" } else { self.scenario.name() };
        format!("{closed}{}", if self.load.keyed { "-keyed" } else { "" })
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn component(text: &str) -> Result<Component, String> {
    let (name, pid) = text.split_once('=').ok_or("write NAME=PID")?;
    let is_valid = !name.is_empty()
        && name.chars().all(|character| character.is_ascii_alphanumeric() || character == '-' || character == '_');
    match (is_valid, pid.parse()) {
        (true, Ok(pid)) => Ok(Component { name: name.to_owned(), pid }),
        _ => Err("write NAME=PID".to_owned()),
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
    fn the_command_line_overrides_a_scenario() {
        let arguments = run_args("bench run --scenario full --rate 2000 --duration 1m");
        let load = arguments.load.of_scenario(arguments.scenario).unwrap();
        let Pace::Open(schedule) = load.pace else { panic!("not open") };
        assert_eq!(schedule, Schedule::new(2_000, Duration::from_secs(60), Duration::from_secs(60)));
        assert_eq!((load.connections, load.organizations, load.payload_bytes.fixed()), (256, 1_000, Some(600)));
        assert_eq!(arguments.thresholds().p95_ms, Some(10.0));
    }

    #[test]
    fn a_closed_run_has_a_concurrency_and_no_rate() {
        let arguments = run_args("bench run --closed --concurrency 64 --duration 20s");
        let load = arguments.load.of_scenario(arguments.scenario).unwrap();
        assert!(matches!(load.pace, Pace::Closed { measured, .. } if measured == Duration::from_secs(20)));
        assert_eq!(load.connections, 64);
        assert_eq!(arguments.thresholds().p95_ms, None);
    }
}
