//! The command line of `faults`, and the plan and options that it gives.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use loadkit::{Failure, duration};
use schemas::dedup::sha256_hex;

use crate::fault::{self, Fault, FaultTiming};
use crate::plan::{PlannedStep, plan};
use crate::round::RoundOptions;
use crate::system::SystemOptions;

/// Injects faults into a running system under load, and checks after each that nothing is lost.
#[derive(Parser, Clone)]
#[command(name = "faults", version, args_override_self = true)]
pub(crate) struct Args {
    /// The binary under test.
    #[arg(long, default_value = "target/ci/triggers")]
    pub triggers: PathBuf,
    /// Folder for the state of the run, the logs and the reports.
    #[arg(long, default_value = "target/faults")]
    pub work: PathBuf,
    /// Continue the run in the work folder; finished steps are not repeated.
    #[arg(long)]
    pub resume: bool,
    /// Print the faults and exit.
    #[arg(long)]
    pub list: bool,
    /// The short form for continuous integration: one broker, a part of the faults, shorter faults.
    #[arg(long)]
    pub short: bool,
    /// Only this fault, by id; can be repeated.
    #[arg(long = "only", value_name = "ID")]
    pub only: Vec<String>,
    /// How often each fault runs alone; 0: only the random sequence.
    #[arg(long, default_value_t = 1, value_parser = count(0..=1000))]
    pub repeat: usize,
    /// Seed of the random sequence, and of the choice of victims.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Number of faults in the random sequence.
    #[arg(long, default_value_t = 0, value_parser = count(0..=10_000))]
    pub count: usize,
    /// No fault starts that could finish later than this.
    #[arg(long, default_value = "40m", value_parser = duration)]
    pub budget: Duration,
    /// Events per second.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub rate: u32,
    /// Kafka brokers [default: 3; 1 in the short form].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub brokers: Option<u8>,
    /// Instances of each role [default: 2].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub instances: Option<u8>,
    /// Session timeout of the consumers, in milliseconds [default: 6000; 3000 in the short form].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1000..=60000))]
    pub session_ms: Option<u32>,
    /// How long a process is halted [default: 30s; 6s in the short form].
    #[arg(long, value_parser = duration)]
    pub halted: Option<Duration>,
    /// Timeout of each wait: for recovery, for consumers, for deliveries.
    #[arg(long, default_value = "150s", value_parser = duration)]
    pub settle: Duration,
    /// Also write the Markdown report to this file.
    #[arg(long)]
    pub markdown: Option<PathBuf>,
}

/// Parses a number of steps.
fn count(range: std::ops::RangeInclusive<u64>) -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser as _;
    clap::value_parser!(u64).range(range).try_map(usize::try_from)
}

impl Args {
    /// The steps of the run.
    pub(crate) fn steps(&self) -> Result<Vec<PlannedStep>, Failure> {
        let all = fault::all();
        if let Some(unknown) = self.only.iter().find(|id| !all.iter().any(|fault| fault.id() == **id)) {
            return Err(Failure::Usage(format!("there is no fault {unknown}; --list shows them")));
        }
        let is_chosen = |fault: &&'static dyn Fault| {
            if self.only.is_empty() {
                !self.short || fault.info().in_short_form
            } else {
                self.only.iter().any(|id| id == fault.id())
            }
        };
        let chosen: Vec<&'static dyn Fault> = all.into_iter().filter(is_chosen).collect();
        let steps = plan(&chosen, self.repeat, self.seed, self.count);
        // An empty run would pass whatever is broken.
        if steps.is_empty() {
            return Err(Failure::Usage("--repeat 0 without --count leaves no step to run".to_owned()));
        }
        Ok(steps)
    }

    /// Everything that decides which steps there are and what they mean.
    pub(crate) fn plan_text(&self) -> String {
        let Self { only, repeat, seed, count, rate, .. } = self;
        let size = (self.nodes(), self.instances_per_role(), self.session());
        format!(
            "short={} only={only:?} repeat={repeat} seed={seed} count={count} rate={rate} size={size:?} halted={:?}",
            self.short,
            self.timing().halted
        )
    }

    /// SHA-256 of the binary under test: a resumed run must use the same one.
    pub(crate) fn binary_hash(&self) -> Result<String, Failure> {
        let binary = self.binary()?;
        let bytes = std::fs::read(&binary)
            .map_err(|error| Failure::Usage(format!("the binary under test, {}: {error}", binary.display())))?;
        Ok(sha256_hex(&[bytes.as_slice()]))
    }

    fn binary(&self) -> Result<PathBuf, Failure> {
        let binary = self.triggers.canonicalize();
        binary.map_err(|error| Failure::Usage(format!("the binary under test, {}: {error}", self.triggers.display())))
    }

    /// The absolute path of the work folder, which is created if it is missing.
    pub(crate) fn folder(&self) -> Result<PathBuf, Failure> {
        let create = || std::fs::create_dir_all(&self.work).and_then(|()| self.work.canonicalize());
        create().map_err(|error| Failure::Usage(format!("the work folder {}: {error}", self.work.display())))
    }

    /// Size and options of the system.
    pub(crate) fn system(&self, folder: &Path) -> Result<SystemOptions, Failure> {
        Ok(SystemOptions {
            binary: self.binary()?,
            folder: folder.to_path_buf(),
            brokers: self.nodes(),
            instances: self.instances_per_role(),
            session_ms: self.session(),
            partitions: 6,
            organizations: self.organizations(),
            small_disk_mib: if self.short { 0 } else { 1024 },
        })
    }

    /// Number of organizations of each round.
    pub(crate) fn organizations(&self) -> usize {
        if self.short { 3 } else { 6 }
    }

    /// Options of each round.
    pub(crate) fn round(&self) -> RoundOptions {
        let seconds = |long: u64, short: u64| Duration::from_secs(if self.short { short } else { long });
        RoundOptions {
            rate: self.rate,
            load_before: seconds(5, 2),
            load_after: seconds(5, 2),
            settle: self.settle,
            timing: self.timing(),
        }
    }

    /// Upper bound for a round without violations. Other rounds are bounded by `settle`, several times.
    pub(crate) fn longest_round(&self) -> Duration {
        self.timing().halted.max(self.timing().condition) + Duration::from_secs(120)
    }

    fn timing(&self) -> FaultTiming {
        let seconds = |long: u64, short: u64| Duration::from_secs(if self.short { short } else { long });
        FaultTiming {
            down: seconds(5, 2),
            halted: self.halted.unwrap_or_else(|| seconds(30, 6)),
            condition: seconds(15, 4),
        }
    }

    /// Number of Kafka brokers.
    pub(crate) fn nodes(&self) -> u8 {
        self.brokers.unwrap_or(if self.short { 1 } else { 3 })
    }

    /// Number of instances of each role.
    pub(crate) fn instances_per_role(&self) -> u8 {
        self.instances.unwrap_or(2)
    }

    fn session(&self) -> u32 {
        self.session_ms.unwrap_or(if self.short { 3000 } else { 6000 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_run_has_the_chosen_faults() {
        let steps = |line: &str| Args::try_parse_from(line.split(' ')).unwrap().steps();
        let ids = |line: &str| steps(line).unwrap().iter().map(|step| step.fault.id()).collect::<Vec<_>>();
        assert_eq!(ids("faults --list").len(), fault::all().len());
        assert_eq!(ids("faults --only disk-full --repeat 2 --short"), ["disk-full", "disk-full"]);
        assert!(ids("faults --short").len() < fault::all().len());
        assert!(steps("faults --only unknown").is_err());
        assert!(steps("faults --repeat 0").is_err());
    }
}
