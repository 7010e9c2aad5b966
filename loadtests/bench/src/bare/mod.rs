//! Bare loops: minimal servers that are measured by the same generator, for comparison with the product.
//!
//! Each loop is a process of this binary, so that its CPU is not counted for the generator. The request handler is in
//! `server`, the topic in `topic`. The pipeline has a second process, `writer`, whose rows are in `rows`. `upsert`
//! writes such rows without a log.

mod process;
mod rows;
pub(crate) mod server;
pub(crate) mod topic;
pub(crate) mod upsert;
pub(crate) mod writer;

use std::time::{Duration, Instant};

use anyhow::Context;
use loadkit::{Failure, RunEnvironment};
use tokio::sync::mpsc;

use crate::figures::Figures;
use crate::generator::{Generator, Watch};
use crate::lag::LagReader;
use crate::organizations::Organization;
use crate::process_usage::{Component, CpuMeter, listener};
use crate::product::{accepted_events, sample_every};
use crate::report::Report;
use crate::request::Requests;
use crate::scenario::{Load, Thresholds};
use crate::session;
use crate::target::{Address, port_of};
use crate::visibility::{MAX_OPEN, Watcher};
use process::Loops;

/// How long accepted events may take to be written after the last reply.
const SETTLE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
pub(crate) enum Loop {
    /// Parses the JSON and answers.
    Http,
    /// The same, and answers after Kafka has confirmed the record.
    Produce(Produce),
    /// The same, and a second process writes the records into the product's own tables.
    Pipeline { produce: Produce, database_url: String },
}

/// The producer of a bare loop.
#[derive(Debug, Clone)]
pub(crate) struct Produce {
    pub brokers: String,
    pub linger_ms: u32,
    pub zstd: bool,
}

impl Loop {
    /// Its name in reports.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Http => "bare-http",
            Self::Produce(Produce { zstd: false, .. }) => "bare-produce",
            Self::Produce(Produce { zstd: true, .. }) => "bare-produce-zstd",
            Self::Pipeline { produce: Produce { zstd: false, .. }, .. } => "bare-pipeline",
            Self::Pipeline { produce: Produce { zstd: true, .. }, .. } => "bare-pipeline-zstd",
        }
    }

    fn produce(&self) -> Option<&Produce> {
        match self {
            Self::Http => None,
            Self::Produce(produce) | Self::Pipeline { produce, .. } => Some(produce),
        }
    }

    fn database_url(&self) -> Option<&str> {
        match self {
            Self::Http | Self::Produce(_) => None,
            Self::Pipeline { database_url, .. } => Some(database_url),
        }
    }
}

/// Runs `load` against the loop.
pub(crate) async fn run(
    bare: &Loop,
    load: Load,
    thresholds: &Thresholds,
    server_threads: usize,
) -> Result<Report, Failure> {
    let environment = RunEnvironment::detect();
    let topic = match bare.produce() {
        None => None,
        Some(produce) => Some(topic::Topic::create(&produce.brokers, "bare", produce.zstd).await?),
    };
    let measured = measure(bare, topic.as_ref(), load, server_threads).await;
    // Also after a failure: a run leaves nothing on the broker.
    if let Some(topic) = topic {
        topic.delete().await?;
    }
    let (figures, rows) = measured?;
    let checks = figures.check(thresholds);
    let passed = checks.iter().all(|check| check.passed);
    Ok(Report { name: bare.name().to_owned(), environment, figures, checks, passed, rows })
}

async fn measure(
    bare: &Loop,
    topic: Option<&topic::Topic>,
    load: Load,
    server_threads: usize,
) -> anyhow::Result<(Figures, Vec<session::Row>)> {
    let topic = topic.map(|topic| topic.name.as_str());
    let loops = Loops::start(bare, topic, server_threads).await?;
    let components = components(bare, &loops);
    let address = Address { authority: format!("127.0.0.1:{}", loops.port), path: String::new(), port: loops.port };
    // As long as real keys, so that the requests have a realistic size.
    let organizations: Vec<Organization> = (0..load.organizations)
        .map(|number| format!("zap_test_{number:055}"))
        .map(|key| Organization { id: writer::organization_of(key.as_bytes()), key })
        .collect();
    let requests = Requests::new(&address, &organizations, &load, "bare");
    let (watch, visibility) = match bare.database_url() {
        None => (None, None),
        Some(url) => {
            let ids = organizations.iter().map(|organization| organization.id).collect();
            let watcher = Watcher::connect(url, ids, SETTLE).await?;
            let (sender, receiver) = mpsc::channel(MAX_OPEN);
            (Some(Watch { every: sample_every(&load), sender }), Some(tokio::spawn(watcher.run(receiver))))
        }
    };
    let mut lag = match (bare, topic) {
        (Loop::Pipeline { produce, database_url }, Some(topic)) => {
            Some(LagReader::connect(&produce.brokers, database_url, rows::CONSUMER, topic).await?)
        }
        _ => None,
    };
    let meter = CpuMeter::start(&components);
    let generator = Generator::start(load, vec![address.authority.clone()], requests, watch).await?;
    let mut session = session::watch(generator, &load, &components, lag.as_mut()).await?;
    let mut figures = Figures::of(&load, &session);
    let last_reply = Instant::now();
    if let Some(lag) = &mut lag {
        match lag.wait_until_applied(SETTLE).await {
            Ok(()) => figures.applied_after_ms = Some(last_reply.elapsed().as_secs_f64() * 1000.0),
            Err(error) => figures.measurement_errors.push(format!("{error:#}")),
        }
    }
    figures.cpu_us_per_event = meter.micros_per_event(accepted_events(&session, &load));
    if let Some(visibility) = visibility {
        let seen = visibility.await.context("watching the view")??;
        seen.fill(session.started, &mut session.rows);
        figures.visibility = Some(seen);
    }
    loops.stop().await?;
    Ok((figures, session.rows))
}

fn components(bare: &Loop, loops: &Loops) -> Vec<Component> {
    let mut components = vec![Component::new("generator", std::process::id())];
    components.extend(loops.components());
    let ports = [
        ("kafka", bare.produce().and_then(|produce| port_of(&produce.brokers))),
        ("postgres", bare.database_url().and_then(port_of)),
    ];
    let servers = ports.into_iter().filter_map(|(name, port)| Some(Component::new(name, port.and_then(listener)?)));
    components.extend(servers);
    components
}
