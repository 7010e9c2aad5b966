//! The words of `loadtests faults`, and what they come to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use schemas::dedup::sha256_hex;

use super::fault::{self, Fault, Times};
use super::plan::{Planned, SHORT, plan};
use super::round::Pace;
use super::system::Shape;
use crate::cli::duration;
use crate::error::Failure;

/// Faults under load, and an account after each.
#[derive(Args, Clone)]
pub struct FaultArgs {
    /// The binary under test.
    #[arg(long, default_value = "target/ci/triggers")]
    pub triggers: PathBuf,
    /// Takes the state of the run, the logs and the reports.
    #[arg(long, default_value = "target/faults")]
    pub work: PathBuf,
    /// Go on with the run in the work folder: what is done is not done again.
    #[arg(long)]
    pub resume: bool,
    /// Print the faults and end.
    #[arg(long)]
    pub list: bool,
    /// One broker, one instance of each role, short faults: the form for continuous integration.
    #[arg(long)]
    pub short: bool,
    /// Only these faults, by id; may be given more than once.
    #[arg(long = "only", value_name = "ID")]
    pub only: Vec<String>,
    /// How often each fault is done alone; 0: only the random sequence.
    #[arg(long, default_value_t = 1, value_parser = steps(0..=1000))]
    pub repeat: usize,
    /// Seed of the random sequence, and of the choice of victims.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Faults in the random sequence.
    #[arg(long, default_value_t = 0, value_parser = steps(0..=10_000))]
    pub count: usize,
    /// No fault is begun that could end later.
    #[arg(long, default_value = "40m", value_parser = duration)]
    pub budget: Duration,
    /// Events a second.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub rate: u32,
    /// Kafka brokers [default: 3; 1 in the short form].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub brokers: Option<u8>,
    /// Instances of each role [default: 2].
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub instances: Option<u8>,
    /// How long a silent consumer keeps its partitions, milliseconds [default: 6000; 3000 in the short form].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1000..=60000))]
    pub session_ms: Option<u32>,
    /// How long something is halted [default: 30s; 6s in the short form].
    #[arg(long, value_parser = duration)]
    pub halted: Option<Duration>,
    /// How long recovering and settling may take each.
    #[arg(long, default_value = "150s", value_parser = duration)]
    pub settle: Duration,
    /// Also writes the Markdown report here.
    #[arg(long)]
    pub markdown: Option<PathBuf>,
}

/// So many of one kind: far more than a run has time for.
fn steps(range: std::ops::RangeInclusive<u64>) -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser as _;
    clap::value_parser!(u64).range(range).try_map(usize::try_from)
}

impl FaultArgs {
    /// The steps of the run.
    pub fn steps(&self) -> Result<Vec<Planned>, Failure> {
        let all = fault::all();
        if let Some(unknown) = self.only.iter().find(|id| !all.iter().any(|fault| fault.id == **id)) {
            return Err(Failure::Usage(format!("there is no fault {unknown}; --list names them")));
        }
        let wanted = |fault: &&Fault| {
            if self.only.is_empty() {
                !self.short || SHORT.contains(&fault.id)
            } else {
                self.only.iter().any(|id| id == fault.id)
            }
        };
        let chosen: Vec<Fault> = all.iter().filter(wanted).cloned().collect();
        let steps = plan(&chosen, &chosen, self.repeat, self.seed, self.count);
        // It would hold whatever is broken.
        if steps.is_empty() {
            return Err(Failure::Usage("with --repeat 0 and without --count there is nothing to do".to_owned()));
        }
        Ok(steps)
    }

    /// What decides which steps there are and what they mean.
    pub fn plan_text(&self) -> String {
        let Self { only, repeat, seed, count, rate, .. } = self;
        let shape = (self.nodes(), self.instances_per_role(), self.session());
        format!(
            "short={} only={only:?} repeat={repeat} seed={seed} count={count} rate={rate} shape={shape:?} halted={:?}",
            self.short,
            self.times().halted
        )
    }

    /// SHA-256 of the binary under test: two parts of one run must be of one product.
    pub fn product(&self) -> Result<String, Failure> {
        let binary = self.binary()?;
        let bytes = std::fs::read(&binary)
            .map_err(|error| Failure::Usage(format!("the binary under test, {}: {error}", binary.display())))?;
        Ok(sha256_hex(&[bytes.as_slice()]))
    }

    fn binary(&self) -> Result<PathBuf, Failure> {
        let binary = self.triggers.canonicalize();
        binary.map_err(|error| Failure::Usage(format!("the binary under test, {}: {error}", self.triggers.display())))
    }

    /// The work folder, made when it is not there, as an absolute path: processes work elsewhere.
    pub fn folder(&self) -> Result<PathBuf, Failure> {
        let make = || std::fs::create_dir_all(&self.work).and_then(|()| self.work.canonicalize());
        make().map_err(|error| Failure::Usage(format!("the work folder {}: {error}", self.work.display())))
    }

    /// The system.
    pub fn shape(&self, folder: &Path) -> Result<Shape, Failure> {
        Ok(Shape {
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

    /// Organizations of each round, each with an inbox.
    pub fn organizations(&self) -> usize {
        if self.short { 3 } else { 6 }
    }

    /// How a round goes.
    pub fn pace(&self) -> Pace {
        let seconds = |long: u64, short: u64| Duration::from_secs(if self.short { short } else { long });
        Pace { rate: self.rate, calm: seconds(5, 2), after: seconds(5, 2), settle: self.settle, times: self.times() }
    }

    /// A bound of one round that goes as it should; what does not is bounded by `settle`, several times.
    pub fn longest_round(&self) -> Duration {
        self.times().halted.max(self.times().kept) + Duration::from_secs(120)
    }

    fn times(&self) -> Times {
        let seconds = |long: u64, short: u64| Duration::from_secs(if self.short { short } else { long });
        Times { down: seconds(5, 2), halted: self.halted.unwrap_or_else(|| seconds(30, 6)), kept: seconds(15, 4) }
    }

    /// Kafka nodes.
    pub fn nodes(&self) -> u8 {
        self.brokers.unwrap_or(if self.short { 1 } else { 3 })
    }

    /// Instances of each role.
    pub fn instances_per_role(&self) -> u8 {
        self.instances.unwrap_or(2)
    }

    fn session(&self) -> u32 {
        self.session_ms.unwrap_or(if self.short { 3000 } else { 6000 })
    }
}
