//! Every figure of the table of targets from one invocation: the steps that start from a system of their own, each with
//! the bare loop beside it in turns.

mod connecting;
mod reading;
mod webhooks;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use loadkit::{Failure, Role, RunEnvironment};

use crate::catchup;
use crate::figures::Figures;
use crate::recovery;
use crate::report;
use crate::results::{ResultFigure, Results, Target};
use crate::scenario::{Load, Pace, SPIKE_ENDS, Scenario};
use crate::schedule::Schedule;
use crate::spread::Spread;
use crate::turns::{TurnOptions, Turns};

/// Records of the catch-up.
const CATCH_UP_RECORDS: u64 = 2_000_000;
/// Connections under overload: so many requests are in flight at most.
const OVERLOAD_CONNECTIONS: usize = 4_000;

/// A step of the suite, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Step {
    /// S1: closed, only ingest and Kafka run.
    S1,
    /// S1b: closed, everything runs.
    S1b,
    /// S2, S4, S13 and S15: 10,000/s, everything runs.
    S2,
    /// S3: 15,000/s, everything runs.
    S3,
    /// S5: 4,000 writes and 1,000 reads a second; the inbox that is read has 1,000 and 1,000,000 events.
    S5,
    /// S6: 1,000/s, 20,000/s for 10 s, 1,000/s.
    S6,
    /// S7: twice the maximum.
    S7,
    /// S8: catching up.
    S8,
    /// S11: webhooks after acceptance, 2,000/s.
    S11,
    /// S12: 10,000 idle connections, 1,000 long polls and 1,000 requests at once.
    S12,
    /// S14: from the start of a role to its readiness.
    S14,
    /// S16: 500/s and 1,000/s.
    S16,
    /// S17: webhooks of a good endpoint beside 100 hanging ones of another organization.
    S17,
    /// S18: memory of ingest with 1,000 half-sent bodies, and with 100 slow readers of large pages.
    S18,
    /// S19: 10,000/s with an empty view, and with 2,000,000 rows.
    S19,
    /// S9: batches of 100, no materializer. Near the end, because it leaves millions of events for one.
    S9,
    /// S10: webhooks from the log, one fast receiver, and many that take 50 ms. No materializer runs.
    S10,
}

/// What runs.
pub(crate) struct Options {
    pub turns: TurnOptions,
    pub steps: Vec<Step>,
    /// Organizations, payload, connections and so on of every step.
    pub load: Load,
    /// Time before each measured time, and the measured time.
    pub ramp: Duration,
    pub measured: Duration,
    /// Idle connections of S12; of the other connections a share.
    pub idle_connections: usize,
    /// Folder of the results of each commit.
    pub results: PathBuf,
}

struct Suite<'a> {
    options: &'a Options,
    turns: Turns<'a>,
    figures: Vec<ResultFigure>,
}

/// Runs the steps, prints the table, and keeps the results of this commit. Returns whether every run passed its own
/// checks; a missed target is a result, not a failure.
pub(crate) async fn run(options: &Options, folder: &Path) -> Result<bool, Failure> {
    let mut environment = RunEnvironment::detect();
    environment.versions.insert("kafka".to_owned(), devstack::kafka_version().to_owned());
    let turns = Turns::start(&options.turns, &options.load, folder).await?;
    let mut suite = Suite { options, turns, figures: Vec::new() };
    let measured = suite.measure().await;
    let passed = suite.turns.all_passed;
    suite.turns.system.stop().await;
    // What was measured before a step failed is kept.
    let results = Results { environment, figures: suite.figures };
    report::write_json(folder, &results)?;
    let kept = results.write(&options.results)?;
    print!("{}", results.table());
    println!("results in {} and {}", folder.display(), kept.display());
    measured.map(|()| passed)
}

impl Suite<'_> {
    async fn measure(&mut self) -> Result<(), Failure> {
        for step in &self.options.steps {
            match step {
                Step::S1 => self.accepting_alone().await?,
                Step::S1b => self.accepting_with_everything().await?,
                Step::S2 => self.ten_thousand().await?,
                Step::S3 => self.fifteen_thousand().await?,
                Step::S5 => self.reads_beside_writes().await?,
                Step::S6 => self.spike().await?,
                Step::S7 => self.overload().await?,
                Step::S8 => self.catching_up().await?,
                Step::S9 => self.batches().await?,
                Step::S10 => self.webhooks_from_the_log().await?,
                Step::S11 => self.webhooks_after_acceptance().await?,
                Step::S12 => self.many_connections().await?,
                Step::S14 => self.starting().await?,
                Step::S16 => self.quiet().await?,
                Step::S17 => self.webhooks_beside_hanging_endpoints().await?,
                Step::S18 => self.held_memory().await?,
                Step::S19 => self.full_view().await?,
            }
        }
        Ok(())
    }

    /// S1.
    async fn accepting_alone(&mut self) -> Result<(), Failure> {
        let load = self.closed(self.options.ramp, self.options.measured);
        let bare = self.turns.produce();
        let (product, bare) = self.turns.run("s1", &[Role::Ingest], Some(&bare), load).await?;
        let target = Target::at_least(34_000.0).ratio_at_least(0.75);
        self.add("S1", "accepted, closed, ingest alone", "/s", rate(&product), Some(rate(&bare)), target);
        Ok(())
    }

    /// S1b.
    async fn accepting_with_everything(&mut self) -> Result<(), Failure> {
        let load = self.closed(self.options.ramp, self.options.measured);
        let pipeline = self.turns.pipeline();
        let (product, bare) = self.turns.run("s1b", &Role::ALL, Some(&pipeline), load).await?;
        let target = Target::at_least(18_000.0).ratio_at_least(0.8);
        self.add("S1b", "accepted, closed, everything runs", "/s", rate(&product), Some(rate(&bare)), target);
        let behind = Spread::of(product.iter().filter_map(|run| run.applied_after_ms));
        self.add("S1b", "view complete after the last reply", "ms", behind, None, Target::at_most(1_000.0));
        Ok(())
    }

    /// S2, S4, S13, S15.
    async fn ten_thousand(&mut self) -> Result<(), Failure> {
        let pipeline = self.turns.pipeline();
        let (product, bare) = self.turns.run("s2", &Role::ALL, Some(&pipeline), self.open(10_000)).await?;
        let p95 = Target::at_most(10.0).ratio_at_most(1.2);
        self.add("S2", "p95 at 10,000/s", "ms", of(&product, p95_ms), Some(of(&bare, p95_ms)), p95);
        let p99 = |run: &Figures| run.latency.p99_ms;
        self.add("S2", "p99 at 10,000/s", "ms", of(&product, p99), Some(of(&bare, p99)), Target::at_most(30.0));
        let longest = |run: &Figures| run.latency.max_ms;
        let most = Target::at_most(1_000.0);
        self.add("S2", "max at 10,000/s", "ms", of(&product, longest), Some(of(&bare, longest)), most);
        let seen = Target::at_most(30.0);
        self.add("S4", "visible p95 at 10,000/s", "ms", visible(&product), Some(visible(&bare)), seen);
        for component in ["ingest", "materializer", "dispatcher"] {
            let memory = |run: &Figures| run.components.get(component).map_or(f64::NAN, |used| used.memory_mib);
            let what = format!("memory of {component} at 10,000/s");
            self.add("S13", &what, "MiB", of(&product, memory), None, Target::at_most(95.4));
        }
        let target = Target::at_most(115.0).ratio_at_most(1.1);
        self.add(
            "S15",
            "CPU of an event at 10,000/s",
            "us",
            of(&product, Figures::cpu_us),
            Some(of(&bare, Figures::cpu_us)),
            target,
        );
        for (ours, theirs) in
            [("ingest", "server"), ("materializer", "writer"), ("kafka", "kafka"), ("postgres", "postgres")]
        {
            let cpu = |name: &'static str| move |run: &Figures| run.cpu_us_of(name);
            let what = format!("of it {ours}");
            let bare = Some(of(&bare, cpu(theirs)));
            self.add("S15", &what, "us", of(&product, cpu(ours)), bare, Target::default());
        }
        Ok(())
    }

    /// S3.
    async fn fifteen_thousand(&mut self) -> Result<(), Failure> {
        let pipeline = self.turns.pipeline();
        let (product, bare) = self.turns.run("s3", &Role::ALL, Some(&pipeline), self.open(15_000)).await?;
        self.add("S3", "accepted at 15,000/s", "/s", rate(&product), Some(rate(&bare)), Target::at_least(14_850.0));
        let p95 = Target::at_most(50.0);
        self.add("S3", "p95 at 15,000/s", "ms", of(&product, p95_ms), Some(of(&bare, p95_ms)), p95);
        let p99 = |run: &Figures| run.latency.p99_ms;
        self.add("S3", "p99 at 15,000/s", "ms", of(&product, p99), Some(of(&bare, p99)), Target::at_most(200.0));
        let seen = Target::default();
        self.add("S4", "visible p95 at 15,000/s", "ms", visible(&product), Some(visible(&bare)), seen);
        Ok(())
    }

    /// S6.
    async fn spike(&mut self) -> Result<(), Failure> {
        let shape = Scenario::Spike.shape();
        let load = Load {
            pace: Pace::Open(shape.schedule),
            measured: shape.schedule.hold(),
            connections: shape.connections,
            stops: shape.stops,
            preload_events: 0,
            ..self.options.load
        };
        let mut seconds = Vec::new();
        for round in 1..=self.options.turns.rounds {
            let name = format!("s6-{round}");
            let report = self.turns.product_within(&name, &Role::ALL, load, Scenario::Spike.thresholds()).await?;
            let recovered = recovery::seconds_until_fast(&report.rows, SPIKE_ENDS, 15.0);
            seconds.push(recovered.unwrap_or(f64::NAN));
        }
        let target = Target::at_most(5.0);
        self.add("S6", "p95 below 15 ms after a spike of 20,000/s", "s", Spread::of(seconds), None, target);
        Ok(())
    }

    /// S7.
    async fn overload(&mut self) -> Result<(), Failure> {
        let closed = self.closed(self.options.ramp, self.options.measured);
        let (mut shares, mut p95s) = (Vec::new(), Vec::new());
        for round in 1..=self.options.turns.rounds {
            let most = self.turns.product(&format!("s7-maximum-{round}"), &Role::ALL, closed).await?;
            let maximum = most.figures.accepted_per_second;
            let open = self.open((maximum * 2.0) as u64);
            let load = Load { connections: OVERLOAD_CONNECTIONS, stops: false, ..open };
            let name = format!("s7-overload-{round}");
            let report = self.turns.product_within(&name, &Role::ALL, load, Scenario::Overload.thresholds()).await?;
            shares.push(report.figures.accepted_per_second / maximum);
            p95s.push(report.figures.latency.p95_ms);
        }
        let goodput = Target::at_least(0.9);
        self.add("S7", "accepted of twice the maximum, share of it", "", Spread::of(shares), None, goodput);
        let target = Target::at_most(500.0);
        self.add("S7", "p95 of all answers at twice the maximum", "ms", Spread::of(p95s), None, target);
        Ok(())
    }

    /// S8.
    async fn catching_up(&mut self) -> Result<(), Failure> {
        let mut runs = Vec::new();
        for round in 1..=self.options.turns.rounds {
            eprintln!("s8, round {round} of {}", self.options.turns.rounds);
            let caught_up = catchup::run(&mut self.turns.system, &self.options.load, CATCH_UP_RECORDS).await?;
            println!("s8: {caught_up:?}");
            runs.push(caught_up);
        }
        let rows = Spread::of(runs.iter().map(|run| run.rows_per_second));
        let bare = Spread::of(runs.iter().map(|run| run.bare.rows_per_second));
        let target = Target::at_least(40_000.0).ratio_at_least(0.6);
        self.add("S8", "rows written while catching up", "/s", rows, Some(bare), target);
        Ok(())
    }

    /// S9.
    async fn batches(&mut self) -> Result<(), Failure> {
        let closed = self.closed(self.options.ramp, self.options.measured);
        let load = Load { batch_events: 100, connections: 64, ..closed };
        let bare = self.turns.produce();
        let (product, bare) = self.turns.run("s9", &[Role::Ingest], Some(&bare), load).await?;
        let target = Target::at_least(100_000.0).ratio_at_least(0.6);
        self.add("S9", "accepted in batches of 100", "/s", rate(&product), Some(rate(&bare)), target);
        Ok(())
    }

    /// S14.
    async fn starting(&mut self) -> Result<(), Failure> {
        for role in Role::ALL {
            let mut times = Vec::new();
            for _ in 0..self.options.turns.rounds {
                self.turns.system.keep_only(&[]).await?;
                let started = std::time::Instant::now();
                self.turns.system.run(&[role]).await?;
                times.push(started.elapsed().as_secs_f64() * 1_000.0);
            }
            let what = format!("{} is ready after its start", role.name());
            self.add("S14", &what, "ms", Spread::of(times), None, Target::at_most(300.0));
        }
        Ok(())
    }

    /// S16, and S4 at 1,000/s.
    async fn quiet(&mut self) -> Result<(), Failure> {
        for rate in [500, 1_000] {
            let pipeline = self.turns.pipeline();
            let (product, bare) =
                self.turns.run(&format!("s16-{rate}"), &Role::ALL, Some(&pipeline), self.open(rate)).await?;
            let what = format!("p95 at {rate}/s");
            let target = Target::at_most(3.0);
            self.add("S16", &what, "ms", of(&product, p95_ms), Some(of(&bare, p95_ms)), target);
            if rate == 1_000 {
                let target = Target::at_most(15.0);
                self.add("S4", "visible p95 at 1,000/s", "ms", visible(&product), Some(visible(&bare)), target);
            }
            let what = format!("CPU of an event at {rate}/s");
            let (ours, theirs) = (of(&product, Figures::cpu_us), of(&bare, Figures::cpu_us));
            self.add("S15", &what, "us", ours, Some(theirs), Target::default());
        }
        Ok(())
    }

    fn add(&mut self, id: &str, what: &str, unit: &str, product: Spread, bare: Option<Spread>, target: Target) {
        let figure = ResultFigure::new(id, what, unit, product, bare, target);
        println!("{}", figure.line());
        self.figures.push(figure);
    }

    fn closed(&self, warm_up: Duration, measured: Duration) -> Load {
        Load { pace: Pace::Closed { warm_up, measured }, measured, preload_events: 0, ..self.options.load }
    }

    fn open(&self, rate: u64) -> Load {
        let measured = self.options.measured;
        let pace = Pace::Open(Schedule::new(rate, self.options.ramp, measured));
        Load { pace, measured, preload_events: 0, ..self.options.load }
    }
}

fn of(runs: &[Figures], figure: impl Fn(&Figures) -> f64) -> Spread {
    Spread::of(runs.iter().map(figure))
}

fn rate(runs: &[Figures]) -> Spread {
    of(runs, |run| run.accepted_per_second)
}

fn p95_ms(run: &Figures) -> f64 {
    run.latency.p95_ms
}

fn visible(runs: &[Figures]) -> Spread {
    of(runs, |run| run.visibility.as_ref().map_or(f64::NAN, |seen| seen.latency.p95_ms))
}
