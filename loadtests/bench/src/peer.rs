//! `peer`: starts another system, and measures it with the same generator as the product.
//!
//! The programs that start the systems are in `loadtests/peers`. `process` starts and stops them; `deliver` measures
//! the way from Kafka to HTTP. What a success means differs from peer to peer: `loadtests/peers/README.md`.

mod deliver;
mod process;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use loadkit::{Failure, RunEnvironment};
use serde::Serialize;
use uuid::Uuid;

use self::process::PeerProcess;
use crate::bare::topic::Topic;
use crate::cli::{PeerArgs, PeerName};
use crate::figures::Figures;
use crate::generator::Generator;
use crate::organizations::Organization;
use crate::process_usage::{Component, CpuMeter, listener};
use crate::product::accepted_events;
use crate::report::{self, Report};
use crate::request::Requests;
use crate::scenario::{Load, Pace, Thresholds};
use crate::session;
use crate::target::{Address, DevFile, port_of};

#[derive(Serialize)]
struct PeerReport {
    runs: Vec<Report>,
    passed: bool,
}

/// Measures the peer and writes the report. Returns whether all its checks passed.
pub(crate) async fn run(arguments: &PeerArgs) -> Result<bool, Failure> {
    let loads = arguments.loads()?;
    let brokers = match arguments.name.needs_kafka() {
        true => Some(brokers(arguments)?),
        false => None,
    };
    let folder = report::folder(arguments.load.out.as_deref(), &format!("peer-{}", arguments.name.name()));
    let topic = match &brokers {
        Some(brokers) => Some(Topic::create(brokers, "peer", false).await?),
        None => None,
    };
    let measured = match (arguments.name, &brokers, &topic) {
        (PeerName::CamelDeliver, Some(brokers), Some(topic)) => {
            deliver::measure(arguments, brokers, &topic.name, &folder).await
        }
        _ => measure(arguments, loads, brokers.as_deref(), topic.as_ref(), &folder).await,
    };
    // Also after a failure: a run leaves nothing on the broker.
    if let Some(topic) = topic {
        topic.delete().await?;
    }
    Ok(measured?)
}

fn brokers(arguments: &PeerArgs) -> Result<String, Failure> {
    let found = match &arguments.brokers {
        Some(brokers) => Some(brokers.clone()),
        None => DevFile::read(&arguments.data_dir)?.and_then(|dev| dev.kafka_brokers),
    };
    found.ok_or_else(|| Failure::Usage("no broker found: start a system with `make up`, or give --brokers".to_owned()))
}

/// Starts the program of the peer with `settings` besides those of Kafka.
async fn start(
    arguments: &PeerArgs,
    kafka: Option<(&str, &str)>,
    settings: &[(&str, String)],
) -> anyhow::Result<PeerProcess> {
    let (program, argument) = arguments.name.program();
    let mut all = settings.to_vec();
    if let Some((brokers, topic)) = kafka {
        all.extend([("PEER_BROKERS", brokers.to_owned()), ("PEER_TOPIC", topic.to_owned())]);
    }
    PeerProcess::start(&arguments.peers.join(program).join("run"), argument, &all).await
}

async fn measure(
    arguments: &PeerArgs,
    loads: Vec<(&'static str, Load)>,
    brokers: Option<&str>,
    topic: Option<&Topic>,
    folder: &Path,
) -> anyhow::Result<bool> {
    let organizations = loads.iter().map(|(_, load)| load.organizations).max().unwrap_or(1);
    let kafka = brokers.zip(topic.map(|topic| topic.name.as_str()));
    let peer = start(arguments, kafka, &[("PEER_STREAMS", organizations.to_string())]).await?;
    peer.wait_until_it_answers().await?;
    let components = components(&peer, brokers);
    if let Some((_, load)) = loads.last()
        && !arguments.warm_up.is_zero()
    {
        eprintln!("warming up for {:?}", arguments.warm_up);
        let (warm_up, measured) = (Duration::ZERO, arguments.warm_up);
        let warming = Load { pace: Pace::Closed { warm_up, measured }, measured, ..*load };
        drive(arguments.name, &peer, warming, &components, "warm").await?;
    }
    let mut runs = Vec::new();
    for (model, load) in loads {
        let mut environment = RunEnvironment::detect();
        environment.versions.extend(peer.version.clone().map(|version| (arguments.name.name().to_owned(), version)));
        let meter = CpuMeter::start(&components);
        let session = drive(arguments.name, &peer, load, &components, model).await?;
        let mut figures = Figures::of(&load, &session);
        figures.cpu_us_per_event = meter.micros_per_event(accepted_events(&session, &load));
        let checks = figures.check(&Thresholds::none());
        let passed = checks.iter().all(|check| check.passed);
        let name = format!("{}-{model}", arguments.name.name());
        let report = Report { name, environment, figures, checks, passed, rows: session.rows };
        print!("{}", report::summary(&report));
        println!("  CPU of an event, us: {}", listed(&report.figures.cpu_us_per_event));
        runs.push(report);
    }
    peer.stop().await?;
    let passed = runs.iter().all(|run| run.passed);
    let report = PeerReport { runs, passed };
    report::write_json(folder, &report)?;
    for run in &report.runs {
        report::write_series(folder, &format!("series-{}.csv", run.name), &run.rows)?;
    }
    println!("report in {}", folder.display());
    Ok(passed)
}

/// Runs `load` against the peer. `run` makes the events of one load different from those of another.
async fn drive(
    name: PeerName,
    peer: &PeerProcess,
    load: Load,
    components: &[Component],
    run: &str,
) -> anyhow::Result<session::Session> {
    let authority = format!("127.0.0.1:{}", peer.port);
    let address = Address { authority: authority.clone(), path: String::new(), port: peer.port };
    // As long as the product's keys, so that requests have the same size. Peers ignore them.
    let organization = |number| Organization { id: Uuid::nil(), key: format!("zap_test_{number:055}") };
    let organizations: Vec<Organization> = (0..load.organizations).map(organization).collect();
    let requests = Requests::on_route(name.route(), &address, &organizations, &load, run);
    let generator = Generator::start(load, vec![authority], requests, None).await?;
    session::watch(generator, &load, components, None).await
}

/// The generator, the peer with its descendants, and the broker.
fn components(peer: &PeerProcess, brokers: Option<&str>) -> Vec<Component> {
    let mut components = vec![Component::new("generator", std::process::id()), Component::new("peer", peer.pid)];
    components.extend(brokers.and_then(port_of).and_then(listener).map(|pid| Component::new("kafka", pid)));
    components
}

fn listed(cpu_us: &BTreeMap<String, f64>) -> String {
    cpu_us.iter().map(|(name, us)| format!("{name} {us:.1}")).collect::<Vec<_>>().join(", ")
}
