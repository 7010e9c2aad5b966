//! Runs of the product and of a bare loop in turns, on one system that is started for them: what `cost` and the suite
//! have in common. The reports of all runs are kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use loadkit::{Failure, Role};

use crate::bare::{self, Loop, Produce};
use crate::figures::Figures;
use crate::product::{self, Counted};
use crate::report::{self, Report};
use crate::scenario::{Load, Pace, Thresholds};
use crate::system::System;

/// How long accepted events may take to be applied after the last reply.
const SETTLE: Duration = Duration::from_secs(120);

/// How the runs are made.
pub(crate) struct TurnOptions {
    pub program: PathBuf,
    /// Added to the environment of the product.
    pub settings: Vec<(String, String)>,
    /// Number of runs of each side.
    pub rounds: usize,
    /// Load before the first measured run: a cold JVM takes a multiple of the CPU.
    pub warm_up: Duration,
    /// Worker threads of the bare loop.
    pub server_threads: usize,
    /// How the bare loop produces; its brokers are those of the system.
    pub linger_ms: u32,
    pub zstd: bool,
}

pub(crate) struct Turns<'a> {
    pub options: &'a TurnOptions,
    pub system: System,
    pub folder: &'a Path,
    /// Whether every run passed its own checks.
    pub all_passed: bool,
}

impl<'a> Turns<'a> {
    /// Starts a system, and puts it under `load` for the time of the warm-up. Reports go into `folder`.
    pub(crate) async fn start(options: &'a TurnOptions, load: &Load, folder: &'a Path) -> Result<Self, Failure> {
        Self::start_with(options, &[], load, folder).await
    }

    /// The same with these settings beside those of the options.
    pub(crate) async fn start_with(
        options: &'a TurnOptions,
        settings: &[(String, String)],
        load: &Load,
        folder: &'a Path,
    ) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let system = System::start(&options.program, &[options.settings.as_slice(), settings].concat()).await?;
        let mut turns = Self { options, system, folder, all_passed: true };
        eprintln!("warming up for {:?}", options.warm_up);
        let pace = Pace::Closed { warm_up: Duration::ZERO, measured: options.warm_up };
        let warm = Load { pace, measured: options.warm_up, reads_per_second: 0, preload_events: 0, ..*load };
        turns.product("warm-up", &Role::ALL, warm).await?;
        Ok(turns)
    }

    /// Runs of both sides in turns, or of the product only.
    pub(crate) async fn run(
        &mut self,
        name: &str,
        roles: &[Role],
        bare: Option<&Loop>,
        load: Load,
    ) -> Result<(Vec<Figures>, Vec<Figures>), Failure> {
        let (mut products, mut bares) = (Vec::new(), Vec::new());
        let rounds = self.options.rounds;
        for round in 1..=rounds {
            eprintln!("{name}, round {round} of {rounds}: product");
            products.push(self.product(&format!("{name}-product-{round}"), roles, load).await?.figures);
            if let Some(bare) = bare {
                eprintln!("{name}, round {round} of {rounds}: {}", bare.name());
                let report = bare::run(bare, load, &Thresholds::none(), self.options.server_threads).await?;
                self.keep(&format!("{name}-{}-{round}", bare.name()), &report)?;
                bares.push(report.figures);
            }
        }
        Ok((products, bares))
    }

    /// One run with these roles, which are stopped afterwards: their polling costs Kafka.
    pub(crate) async fn product(&mut self, name: &str, roles: &[Role], load: Load) -> Result<Report, Failure> {
        self.product_within(name, roles, load, Thresholds::none()).await
    }

    pub(crate) async fn product_within(
        &mut self,
        name: &str,
        roles: &[Role],
        load: Load,
        thresholds: Thresholds,
    ) -> Result<Report, Failure> {
        self.system.keep_only(roles).await?;
        self.system.run_and_catch_up(roles).await?;
        let options = product::Options {
            name: name.to_owned(),
            thresholds,
            limit_per_minute: 0,
            settle: SETTLE,
            components: self.system.components(),
            counted: if roles.contains(&Role::Materializer) { Counted::Inbox } else { Counted::Log },
        };
        let report = product::run(&self.system.target, load, &options).await?;
        self.keep(name, &report)?;
        self.system.keep_only(&[]).await?;
        Ok(report)
    }

    fn keep(&mut self, name: &str, report: &Report) -> Result<(), Failure> {
        print!("{}", report::summary(report));
        self.all_passed &= report.passed;
        report::write_all(&self.folder.join(name), report)?;
        Ok(())
    }

    /// The bare producing loop on this system.
    pub(crate) fn produce(&self) -> Loop {
        Loop::Produce(self.producer())
    }

    /// The bare pipeline on this system.
    pub(crate) fn pipeline(&self) -> Loop {
        let database_url = self.system.target.database_url.clone().unwrap_or_default();
        Loop::Pipeline { produce: self.producer(), database_url }
    }

    fn producer(&self) -> Produce {
        let TurnOptions { linger_ms, zstd, .. } = *self.options;
        Produce { brokers: self.system.target.kafka_brokers.clone().unwrap_or_default(), linger_ms, zstd }
    }
}
