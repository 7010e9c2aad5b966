//! One run against the product: organizations, load, visibility, and the count of the stored events.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use loadkit::{Failure, Role, RunEnvironment};
use tokio::sync::mpsc;

use crate::control_client::ControlClient;
use crate::figures::Figures;
use crate::generator::{Generator, Watch};
use crate::inbox_reader::{self, Expected};
use crate::lag::LagReader;
use crate::log_count::{LogCount, end_of_log};
use crate::organizations;
use crate::preload;
use crate::process_usage::{Component, CpuMeter, listener};
use crate::reads::Reads;
use crate::recorder::RequestOutcome;
use crate::report::Report;
use crate::request::Requests;
use crate::scenario::{Load, Pace, Thresholds};
use crate::session;
use crate::target::{Target, port_of};
use crate::visibility::{MAX_OPEN, Visibility, Watcher};

/// Approximate number of sampled events per second.
const SAMPLES_PER_SECOND: u64 = 100;

/// Where the accepted events are counted afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// Each event once, in order. Batches are counted on the log even so: their replies name too many ids to keep.
    Inbox,
    /// Their number, on the log: no materializer runs.
    Log,
}

/// Options of a run.
pub(crate) struct Options {
    /// Name of the run.
    pub name: String,
    pub thresholds: Thresholds,
    /// Limit of the organizations, requests a minute; 0: none.
    pub limit_per_minute: u32,
    /// How long accepted events may take to appear after the last reply.
    pub settle: Duration,
    /// Components given on the command line.
    pub components: Vec<Component>,
    pub counted: Counted,
}

/// Runs `load` against `target` and counts afterwards.
pub(crate) async fn run(target: &Target, mut load: Load, options: &Options) -> Result<Report, Failure> {
    let mut environment = RunEnvironment::detect();
    let control = ControlClient::new(&target.address)?;
    let organizations = organizations::ensure(target, &control, load.organizations, options.limit_per_minute).await?;
    load.organizations = organizations.list.len();
    environment.versions = versions(&control, target).await;
    if load.batch_events > 1 || options.counted == Counted::Log {
        return run_without_view(target, load, options, organizations.list, environment).await;
    }
    if let (1.., Some(last)) = (load.preload_events, organizations.list.last()) {
        preload::run(target, &load, std::slice::from_ref(last), load.preload_events).await?;
    }
    let from = inbox_reader::ends(&control, &organizations.list).await?;

    let (watch, visibility) = start_watcher(target, &load, &organizations.list, options.settle).await?;
    let run_tag = format!("{:x}", time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000);
    let requests = Requests::new(&target.address, &organizations.list, &load, &run_tag);
    let components = components(target, &options.components);
    let mut lag = LagReader::of(target, Role::Materializer).await?;
    let reads = match organizations.list.last() {
        Some(last) if load.reads_per_second > 0 => Some(Reads::start(&control, &target.address, last, &load).await?),
        _ => None,
    };
    let meter = CpuMeter::start(&components);
    let generator = Generator::start(load, target.addresses(), requests, watch).await?;
    let mut session = session::watch(generator, &load, &components, lag.as_mut()).await?;

    let mut figures = Figures::of(&load, &session);
    let last_reply = Instant::now();
    if let Some(reads) = reads {
        reads.stop();
        figures.reads = reads.finish()?;
    }
    if let Some(lag) = &mut lag {
        match lag.wait_until_applied(options.settle).await {
            Ok(()) => figures.applied_after_ms = Some(last_reply.elapsed().as_secs_f64() * 1000.0),
            Err(error) => figures.measurement_errors.push(format!("{error:#}")),
        }
    }
    figures.cpu_us_per_event = meter.micros_per_event(accepted_events(&session, &load));
    if let Some(visibility) = visibility {
        match visibility.await.context("watching the view").flatten() {
            Ok(seen) => {
                seen.fill(session.started, &mut session.rows);
                figures.visibility = Some(seen);
            }
            Err(error) => figures.measurement_errors.push(format!("{error:#}")),
        }
    }
    eprintln!("counting stored events");
    figures.allowed_unexpected = organizations.exclusive.then(|| session.recorder.maybe_stored());
    let accepted = session.recorder.into_accepted(organizations.list.len());
    let expected = Expected { organizations: organizations.list, from, accepted };
    // An error here is a result: the figures of a long run are kept.
    match inbox_reader::check(&control, expected, Instant::now() + options.settle).await {
        Ok(result) => figures.inbox = Some(result),
        Err(error) => figures.measurement_errors.push(format!("{error:#}")),
    }

    let checks = figures.check(&options.thresholds);
    let passed = checks.iter().all(|check| check.passed);
    Ok(Report { name: options.name.clone(), environment, figures, checks, passed, rows: session.rows })
}

/// The same without the view: the log is counted, not the inbox.
async fn run_without_view(
    target: &Target,
    load: Load,
    options: &Options,
    organizations: Vec<organizations::Organization>,
    environment: RunEnvironment,
) -> Result<Report, Failure> {
    let Some(brokers) = &target.kafka_brokers else {
        return Err(Failure::Usage(
            "events are counted on the log, and no broker was found: start a system with `make up`".to_owned(),
        ));
    };
    let before = end_of_log(brokers).await?;
    let run_tag = format!("{:x}", time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000);
    let requests = Requests::new(&target.address, &organizations, &load, &run_tag);
    let components = components(target, &options.components);
    let meter = CpuMeter::start(&components);
    let generator = Generator::start(load, target.addresses(), requests, None).await?;
    let session = session::watch(generator, &load, &components, None).await?;
    let mut figures = Figures::of(&load, &session);
    figures.cpu_us_per_event = meter.micros_per_event(accepted_events(&session, &load));
    match end_of_log(brokers).await {
        Ok(after) => figures.log = Some(LogCount::new(&load, &session.recorder, before, after)),
        Err(error) => figures.measurement_errors.push(format!("{error:#}")),
    }
    let checks = figures.check(&options.thresholds);
    let passed = checks.iter().all(|check| check.passed);
    Ok(Report { name: options.name.clone(), environment, figures, checks, passed, rows: session.rows })
}

/// Events of the requests that were accepted as a whole.
pub(crate) fn accepted_events(session: &session::Session, load: &Load) -> u64 {
    session.recorder.all.get(&RequestOutcome::Accepted).copied().unwrap_or(0) * load.batch_events as u64
}

/// Every how many accepted events one is sampled for visibility.
pub(crate) fn sample_every(load: &Load) -> u64 {
    let every = match load.pace {
        Pace::Open(schedule) => schedule.peak() / SAMPLES_PER_SECOND,
        Pace::Closed { .. } => 100,
    };
    every.max(1)
}

type VisibilityTask = tokio::task::JoinHandle<anyhow::Result<Visibility>>;

async fn start_watcher(
    target: &Target,
    load: &Load,
    organizations: &[organizations::Organization],
    settle: Duration,
) -> Result<(Option<Watch>, Option<VisibilityTask>), Failure> {
    let Some(database_url) = &target.database_url else {
        eprintln!("no database given: visibility is not measured");
        return Ok((None, None));
    };
    let ids = organizations.iter().map(|organization| organization.id).collect();
    let watcher = Watcher::connect(database_url, ids, settle).await?;
    let (sender, receiver) = mpsc::channel(MAX_OPEN);
    Ok((Some(Watch { every: sample_every(load), sender }), Some(tokio::spawn(watcher.run(receiver)))))
}

/// The components that are found by their ports or given on the command line.
pub(crate) fn components(target: &Target, named: &[Component]) -> Vec<Component> {
    let mut components = vec![Component { name: "generator".to_owned(), pid: std::process::id() }];
    components.extend_from_slice(named);
    let ports = [
        ("triggers", Some(target.address.port)),
        ("kafka", target.kafka_brokers.as_deref().and_then(port_of)),
        ("postgres", target.database_url.as_deref().and_then(port_of)),
    ];
    for (name, port) in ports {
        let pid = port.and_then(listener);
        if components.iter().any(|component| component.name == name || Some(component.pid) == pid) {
            continue;
        }
        match pid {
            Some(pid) => components.push(Component { name: name.to_owned(), pid }),
            None => eprintln!(
                "no process found for {name}: its CPU and memory are not measured (--pid {name}=PID names it)"
            ),
        }
    }
    components
}

/// Versions of the product and the database.
async fn versions(control: &ControlClient, target: &Target) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    if let Ok((200, body)) = control.get("/status", "").await
        && let Ok(status) = serde_json::from_slice::<serde_json::Value>(&body)
        && let Some(version) = status.get("version").and_then(serde_json::Value::as_str)
    {
        versions.insert("triggers".to_owned(), version.to_owned());
    }
    if let Some(url) = &target.database_url
        && let Ok(options) = runtime::postgres::connect_options(url)
        && let Ok(mut connection) = <sqlx::PgConnection as sqlx::Connection>::connect_with(&options).await
        && let Ok(version) = sqlx::query_scalar::<_, String>("SHOW server_version").fetch_one(&mut connection).await
    {
        versions.insert("postgres".to_owned(), version);
    }
    versions
}
