//! Measures Triggers under load: an open-model generator, a count of the stored events, and bare loops to compare with.
//!
//! A run sends requests at fixed times (`schedule`, `request`, `connection`, `generator`), records the outcomes
//! (`recorder`, `session`, `figures`), measures the time until events are visible (`visibility`), checks that each
//! event is in the inbox once (`inbox_reader`, `inbox_check`), and writes a report (`report`). It uses only the HTTP
//! contract of the product and one SQL view.
//!
//! Exit codes: 0 all thresholds met, 1 a missed threshold or a failure, 2 wrong usage.

mod bare;
mod baseline;
mod bottleneck;
mod catchup;
mod cli;
mod compare;
mod connection;
mod connections;
mod control_client;
mod cost;
mod deliver;
mod dry_run;
mod eventually;
mod figures;
mod generator;
mod inbox_check;
mod inbox_reader;
mod instance;
mod lag;
mod limit_cost;
mod limits;
mod log_count;
mod metrics;
mod named;
mod organizations;
mod page;
mod peer;
mod plot;
mod preload;
mod process_usage;
mod product;
mod reads;
mod recorder;
mod recovery;
mod report;
mod request;
mod results;
#[cfg(test)]
mod sample;
mod scale;
mod scenario;
mod schedule;
mod series;
mod session;
mod spread;
mod suite;
mod system;
mod target;
mod turns;
mod variation;
mod visibility;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use loadkit::Failure;
use tokio::signal::unix::{SignalKind, signal};

use crate::bare::{Loop, Produce};
use crate::cli::{
    AllArgs, BareCommand, BarePipelineArgs, BarePostArgs, BareServerArgs, BareUpsertArgs, Cli, Command, CostArgs,
    DeliverArgs, LimitCostArgs, LoadArgs, LoopArgs, ProducerArgs, RunArgs, ScaleArgs, SystemArgs,
};
use crate::deliver::endpoints::EndpointOptions;
use crate::named::Named;
use crate::product::Counted;
use crate::scale::Dimension;
use crate::scenario::{Load, Scenario, Thresholds};
use crate::suite::Step;
use crate::system::System;
use crate::target::{DevFile, Target};

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            failure.print("bench");
            ExitCode::from(failure.code())
        }
    }
}

/// Executes the command. Returns whether all thresholds were met.
fn execute(command: Command) -> Result<bool, Failure> {
    // The load runs on its own threads; this runtime only watches it.
    let threads = match &command {
        Command::BareServer(arguments) => arguments.threads,
        // As many as the dispatcher has.
        Command::BareSender(_) => threads(None),
        _ => 1,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        // What is dropped here ends the processes that it started.
        tokio::select! {
            outcome = perform(command) => outcome,
            _ = terminated.recv() => Err(anyhow::anyhow!("ended by SIGTERM").into()),
        }
    })
}

async fn perform(command: Command) -> Result<bool, Failure> {
    match command {
        Command::Run(arguments) => run(arguments).await,
        Command::Bare(BareCommand::Http(arguments)) => {
            run_bare(&Loop::Http, &arguments.load, arguments.server_threads).await
        }
        Command::Bare(BareCommand::Produce(arguments)) => {
            let bare =
                produce(&arguments.producer, DevFile::read(&arguments.data_dir)?.and_then(|dev| dev.kafka_brokers))?;
            run_bare(&bare, &arguments.load, arguments.producer.options.server_threads).await
        }
        Command::Bare(BareCommand::Pipeline(arguments)) => run_pipeline(arguments).await,
        Command::Bare(BareCommand::Upsert(arguments)) => run_upsert(arguments).await,
        Command::Bare(BareCommand::Post(arguments)) => run_post(arguments).await,
        Command::Cost(arguments) => run_cost(arguments).await,
        Command::Scale(arguments) => run_scale(arguments).await,
        Command::All(arguments) => run_all(arguments).await,
        Command::Compare(arguments) => compare::run(&arguments.before, &arguments.after),
        Command::Report(arguments) => baseline::run(&compare::find(&arguments.results), &arguments.document),
        Command::Limits(arguments) => limits::run(&Target::find(&arguments.system())?, &arguments).await,
        Command::LimitCost(arguments) => run_limit_cost(arguments).await,
        Command::Deliver(arguments) => run_deliver(arguments).await,
        Command::Peer(arguments) => peer::run(&arguments).await,
        Command::BareServer(arguments) => serve_bare(arguments).await,
        Command::BareWriter(arguments) => {
            Ok(bare::writer::run(&arguments.brokers, &arguments.topic).await.map(|()| true)?)
        }
        Command::BareSender(arguments) => Ok(deliver::bare::send(arguments).await.map(|()| true)?),
    }
}

async fn run(arguments: RunArgs) -> Result<bool, Failure> {
    let load = arguments.load.of_scenario(arguments.scenario)?;
    if arguments.dry_run {
        print!("{}", dry_run::of_run(&arguments, &load));
        return Ok(true);
    }
    match named::command(&arguments)? {
        Some(Named::Deliver(deliver)) => return run_deliver(deliver).await,
        Some(Named::All(all)) => return run_all(all).await,
        None if arguments.scenario == Scenario::Connections => return named::connections(arguments).await,
        None => {}
    }
    let (name, thresholds) = (arguments.name(), arguments.thresholds());
    let folder = report::folder(arguments.load.out.as_deref(), &name);
    let (target, options) = system(arguments.system, &load, name, thresholds)?;
    publish(&folder, &product::run(&target, load, &options).await?)
}

async fn run_bare(bare: &Loop, arguments: &LoadArgs, server_threads: Option<u8>) -> Result<bool, Failure> {
    let load = arguments.of_bare()?;
    let report = bare::run(bare, load, &Thresholds::none(), threads(server_threads)).await?;
    publish(&report::folder(arguments.out.as_deref(), bare.name()), &report)
}

async fn run_pipeline(arguments: BarePipelineArgs) -> Result<bool, Failure> {
    let load = arguments.load.of_bare()?;
    let system = System::start(&arguments.program.triggers, &[]).await?;
    let brokers = system.target.kafka_brokers.clone().unwrap_or_default();
    let database_url = system.target.database_url.clone().unwrap_or_default();
    let bare = Loop::Pipeline { produce: producer_of(&arguments.producer, brokers), database_url };
    let report = bare::run(&bare, load, &Thresholds::none(), threads(arguments.producer.server_threads)).await;
    system.stop().await;
    publish(&report::folder(arguments.load.out.as_deref(), bare.name()), &report?)
}

async fn run_upsert(arguments: BareUpsertArgs) -> Result<bool, Failure> {
    let load = arguments.load.of_bare()?;
    let system = System::start(&arguments.program.triggers, &[]).await?;
    let database_url = system.target.database_url.clone().unwrap_or_default();
    let upserts =
        bare::upsert::run(&database_url, load.organizations, load.payload_bytes.median(), load.measured).await;
    system.stop().await;
    let upserts = upserts?;
    println!("{:.0} rows/s, {:.1} us of PostgreSQL's CPU for each", upserts.rows_per_second, upserts.postgres_us);
    report::write_json(&report::folder(arguments.load.out.as_deref(), "bare-upsert"), &upserts)?;
    Ok(true)
}

async fn run_post(arguments: BarePostArgs) -> Result<bool, Failure> {
    let load = arguments.load.of_bare()?;
    let post = deliver::bare::run_alone(&load, arguments.in_flight, arguments.answer_after).await?;
    report::write_json(&report::folder(arguments.load.out.as_deref(), "bare-post"), &post)?;
    Ok(true)
}

async fn run_cost(arguments: CostArgs) -> Result<bool, Failure> {
    let loads = arguments.load.of_rates(&arguments.rates)?;
    let folder = report::folder(arguments.load.out.as_deref(), "cost");
    cost::run(&arguments.turns.options(), &loads, !arguments.no_bare, &folder).await
}

async fn run_scale(arguments: ScaleArgs) -> Result<bool, Failure> {
    let load = LoadArgs { closed: true, ..arguments.load };
    let folder = report::folder(load.out.as_deref(), "scale");
    let dimensions = match arguments.dimensions.as_slice() {
        [] => Dimension::value_variants(),
        some => some,
    };
    scale::run(&arguments.turns.options(), dimensions, load.of_bare()?, &folder).await
}

async fn run_all(arguments: AllArgs) -> Result<bool, Failure> {
    let (ramp, measured) = (arguments.load.ramp, arguments.load.duration);
    let mut steps = if arguments.steps.is_empty() { Step::value_variants().to_vec() } else { arguments.steps };
    steps.sort_unstable();
    steps.dedup();
    let options = suite::Options {
        turns: arguments.turns.options(),
        steps,
        load: arguments.load.of_bare()?,
        ramp: ramp.unwrap_or(Duration::from_secs(5)),
        measured: measured.unwrap_or(Duration::from_secs(20)),
        idle_connections: usize::from(arguments.idle_connections),
        results: arguments.results,
    };
    if arguments.dry_run {
        print!("{}", dry_run::of_all(&options));
        return Ok(true);
    }
    suite::run(&options, &report::folder(arguments.load.out.as_deref(), "all")).await
}

async fn run_limit_cost(arguments: LimitCostArgs) -> Result<bool, Failure> {
    let load = arguments.load.of_bare()?;
    let folder = report::folder(arguments.load.out.as_deref(), "limit-cost");
    let (target, options) = system(arguments.system, &load, "limits".to_owned(), Thresholds::none())?;
    let rounds = usize::from(arguments.rounds);
    let pair =
        limit_cost::Pair { program: arguments.triggers, limit_per_minute: arguments.limit, rounds, load, options };
    limit_cost::run(&target, &pair, &folder).await
}

async fn run_deliver(arguments: DeliverArgs) -> Result<bool, Failure> {
    let load = arguments.load.of_deliver()?;
    let folder = report::folder(arguments.load.out.as_deref(), "deliver");
    let target = Target::find(&arguments.system)?;
    let options = deliver::Options {
        rounds: usize::from(arguments.rounds),
        load,
        answer_after: arguments.answer_after,
        endpoints: EndpointOptions { max_in_flight: arguments.max_in_flight, batch_events: arguments.webhook_batch },
        bad: arguments.bad,
        bad_events_per_second: arguments.bad_rate,
        keyed_beside_per_second: arguments.keyed_beside,
        bare_in_flight: arguments.bare,
        settle: arguments.system.settle,
        components: arguments.system.pids,
    };
    deliver::run(&target, &options, &folder).await
}

async fn serve_bare(arguments: BareServerArgs) -> Result<bool, Failure> {
    let sink = match (arguments.brokers, arguments.topic) {
        (Some(brokers), Some(topic)) => {
            let (linger_ms, zstd, pipeline) = (arguments.linger_ms, arguments.zstd, arguments.pipeline);
            Some(bare::server::Sink { brokers, topic, linger_ms, zstd, pipeline })
        }
        _ => None,
    };
    bare::server::run(sink).await?;
    Ok(true)
}

fn publish(folder: &Path, report: &report::Report) -> Result<bool, Failure> {
    report::publish(folder, report)?;
    Ok(report.passed)
}

/// The system that the command line names, and the options of the run.
fn system(
    arguments: SystemArgs,
    load: &Load,
    name: String,
    thresholds: Thresholds,
) -> Result<(Target, product::Options), Failure> {
    let target = Target::find(&arguments)?;
    if target.key.is_some() && load.organizations > 1 {
        eprintln!("only one key: all events are sent for its organization");
    }
    let (settle, components) = (arguments.settle, arguments.pids);
    let counted = Counted::Inbox;
    Ok((target, product::Options { name, thresholds, limit_per_minute: 0, settle, components, counted }))
}

fn produce(arguments: &ProducerArgs, found: Option<String>) -> Result<Loop, Failure> {
    let brokers = arguments.brokers.clone().or(found);
    let brokers = brokers.ok_or_else(|| {
        Failure::Usage("no broker found: start a system with `make up`, or give --brokers".to_owned())
    })?;
    Ok(Loop::Produce(producer_of(&arguments.options, brokers)))
}

fn producer_of(arguments: &LoopArgs, brokers: String) -> Produce {
    Produce { brokers, linger_ms: arguments.linger_ms, zstd: arguments.zstd }
}

/// Worker threads of a bare loop: by default as many as the product has.
fn threads(option: Option<u8>) -> usize {
    option.map_or_else(|| std::thread::available_parallelism().map_or(2, usize::from), usize::from)
}
