//! `deliver`: webhooks under load. Every organization has an endpoint of a receiver in this process, and the run counts
//! which accepted event arrived, when, and how often.
//!
//! With `--bad`, runs with and without bad endpoints of another organization take turns; with `--keyed-beside`, runs
//! with and without keyed events of the same organizations. With `--bare`, a bare client that signs and posts takes
//! turns with the product.

pub(crate) mod bare;
pub(crate) mod endpoints;
pub(crate) mod figures;
mod keyed;
pub(crate) mod receiver;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use loadkit::{Failure, RunEnvironment};
use serde::Serialize;

use crate::control_client::ControlClient;
use crate::figures::Figures;
use crate::generator::Generator;
use crate::organizations::{self, Organization};
use crate::process_usage::Component;
use crate::product;
use crate::recorder::RequestOutcome;
use crate::report;
use crate::request::Requests;
use crate::scenario::Load;
use crate::session;
use crate::spread::Spread;
use crate::target::Target;
use bare::BarePost;
use endpoints::{Bad, EndpointOptions, Endpoints};
use figures::Deliveries;
use keyed::KeyedLoad;
use receiver::Receiver;

/// What bad neighbours, or keyed events, may add to the p95 of the measured webhooks: this much, or this share of it.
const MOST_ADDED_MS: f64 = 5.0;
const MOST_ADDED_SHARE: f64 = 0.1;
/// Least share of the bare client's rate.
const LEAST_RATIO: f64 = 0.3;
/// Requests that may fail.
const MOST_ERRORS_PERCENT: f64 = 1.0;
/// Between two looks whether everything has arrived.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// After the bad endpoints were made, so that their first attempts are in flight when the measuring begins.
const BAD_HEADSTART: Duration = Duration::from_secs(3);

/// What a run needs.
pub(crate) struct Options {
    pub rounds: usize,
    pub load: Load,
    /// How long a receiver takes to answer.
    pub answer_after: Duration,
    pub endpoints: EndpointOptions,
    pub bad: Option<Bad>,
    /// Events a second for the bad endpoints.
    pub bad_events_per_second: u16,
    /// Keyed events a second beside the measured ones.
    pub keyed_beside_per_second: Option<u32>,
    /// Requests in flight of the bare client; none: it does not run.
    pub bare_in_flight: Option<u16>,
    /// How long accepted events may take to arrive after the last reply.
    pub settle: Duration,
    pub components: Vec<Component>,
}

#[derive(Serialize)]
struct DeliverReport {
    environment: RunEnvironment,
    answer_after_ms: u128,
    endpoints: EndpointOptions,
    bad: Option<Bad>,
    keyed_beside_per_second: Option<u32>,
    runs: Vec<Run>,
    bare: Vec<BarePost>,
    /// Median of the runs' p95 alone, and with bad endpoints or keyed events beside.
    p95_ms: f64,
    p95_beside_ms: Option<f64>,
    /// Median of the runs' rates, and its share of the bare client's.
    per_second: f64,
    ratio: Option<f64>,
    passed: bool,
}

#[derive(Serialize)]
struct Run {
    /// Whether bad endpoints, or keyed events, were beside.
    beside: bool,
    accept: Figures,
    deliveries: Deliveries,
}

/// Runs everything and writes the report into `folder`. Returns whether all checks passed.
pub(crate) async fn run(target: &Target, options: &Options, folder: &Path) -> Result<bool, Failure> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let environment = RunEnvironment::detect();
    let control = ControlClient::new(&target.address)?;
    let good = options.load.organizations;
    // Bad endpoints are of another organization in each round: changes of endpoints are bounded per organization.
    let bad = options.bad.map_or(0, |_| options.rounds);
    let organizations = organizations::ensure(target, &control, good + bad, 0).await?;
    let split = organizations.list.split_at_checked(good);
    let Some((good_ones, bad_ones)) = split.filter(|(_, bad_ones)| bad_ones.len() >= bad) else {
        return Err(Failure::Usage("deliver makes organizations: give --operator-token and no --key".to_owned()));
    };
    let receiver = Receiver::start(options.answer_after)?;
    let endpoints = Endpoints::of_each(&control, good_ones, &receiver, options.endpoints).await?;
    let (mut runs, mut bare) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        runs.push(measure(target, options, good_ones, &receiver, false).await?);
        if options.keyed_beside_per_second.is_some() {
            runs.push(measure(target, options, good_ones, &receiver, true).await?);
        }
        if let (Some(bad), Some(bad_one)) = (options.bad, bad_ones.get(round)) {
            let bad_endpoints = Endpoints::bad(&control, bad_one, &receiver, bad, options.endpoints).await?;
            let busy = endpoints::keep_bad_ones_busy(&control, bad_one, options.bad_events_per_second);
            let measured = async {
                tokio::time::sleep(BAD_HEADSTART).await;
                measure(target, options, good_ones, &receiver, true).await
            };
            runs.push(tokio::select! { run = measured => run?, () = busy => unreachable!("it never ends") });
            bad_endpoints.delete().await?;
        }
        if let Some(in_flight) = options.bare_in_flight {
            bare.push(bare::run(&receiver, &options.load, in_flight).await?);
            receiver.take();
        }
    }
    endpoints.delete().await?;
    let report = conclude(environment, options, runs, bare);
    report::write_json(folder, &report)?;
    println!("report in {}", folder.display());
    Ok(report.passed)
}

/// One load, and the wait for its webhooks.
async fn measure(
    target: &Target,
    options: &Options,
    organizations: &[Organization],
    receiver: &Receiver,
    beside: bool,
) -> Result<Run, Failure> {
    let load = &options.load;
    receiver.take();
    let run_tag = format!("{:x}", time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000);
    let requests = Requests::new(&target.address, organizations, load, &run_tag);
    let keyed = match options.keyed_beside_per_second.filter(|_| beside) {
        Some(rate) => Some(KeyedLoad::start(target, organizations, load, rate, &run_tag).await?),
        None => None,
    };
    let generator = Generator::start(*load, target.address.authority.clone(), requests, None).await?;
    let started = generator.started;
    let session = session::watch(generator, load, &product::components(target, &options.components), None).await?;
    let accept = Figures::of(load, &session);
    let requests = session.recorder.all.get(&RequestOutcome::Accepted).copied().unwrap_or(0);
    let count = requests * load.batch_events as u64;
    keyed.map(KeyedLoad::end).transpose()?;
    let accepted: Vec<_> = match load.batch_events {
        1 => session.recorder.into_accepted(organizations.len()).into_iter().flatten().collect(),
        // The reply to a batch has many ids, of which only one is read.
        _ => Vec::new(),
    };
    let until = Instant::now() + options.settle;
    while !receiver.has_received(count, &accepted) && Instant::now() < until {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let deliveries = figures::join(count, &accepted, &receiver.take(), started, load.pace.measured_from());
    println!(
        "{}: {:.0} accepted/s, {} errors, {:.0} delivered/s; p50 {:.2}, p95 {:.2}, p99 {:.2}, max {:.2} ms after \
         acceptance; {} missing, {} repeated",
        match (beside, options.bad) {
            (false, _) => "deliver",
            (true, Some(_)) => "with bad endpoints",
            (true, None) => "with keyed events",
        },
        accept.accepted_per_second,
        accept.errors,
        deliveries.per_second,
        deliveries.latency.p50_ms,
        deliveries.latency.p95_ms,
        deliveries.latency.p99_ms,
        deliveries.latency.max_ms,
        deliveries.missing,
        deliveries.repeated
    );
    for (name, used) in &accept.components {
        println!("  {name}: {:.2} cores, {:.0} MiB", used.cpu_cores, used.memory_mib);
    }
    Ok(Run { beside, accept, deliveries })
}

fn conclude(environment: RunEnvironment, options: &Options, runs: Vec<Run>, bare: Vec<BarePost>) -> DeliverReport {
    let of = |beside, figure: &dyn Fn(&Deliveries) -> f64| {
        let of_side = runs.iter().filter(|run| run.beside == beside);
        Spread::of(of_side.map(|run| figure(&run.deliveries))).median
    };
    let p95_ms = of(false, &|seen| seen.latency.p95_ms);
    let per_second = of(false, &|seen| seen.per_second);
    let has_beside = runs.iter().any(|run| run.beside);
    let p95_beside_ms = has_beside.then(|| of(true, &|seen| seen.latency.p95_ms));
    let ratio = (!bare.is_empty()).then(|| per_second / Spread::of(bare.iter().map(|run| run.per_second)).median);
    let mut passed =
        runs.iter().all(|run| run.deliveries.missing == 0 && run.accept.error_percent <= MOST_ERRORS_PERCENT);
    println!("delivered {per_second:.0}/s, p95 {p95_ms:.2} ms (medians of {})", options.rounds);
    if let Some(with) = p95_beside_ms {
        let most = p95_ms + MOST_ADDED_MS.max(p95_ms * MOST_ADDED_SHARE);
        passed &= with <= most;
        let what = options.bad.map_or("keyed events beside", |_| "bad endpoints of another organization");
        println!("with {what}: p95 {with:.2} ms (threshold: <= {most:.2} ms)");
    }
    if let Some(ratio) = ratio {
        passed &= ratio >= LEAST_RATIO;
        println!("{ratio:.3} of the bare client (threshold: >= {LEAST_RATIO})");
    }
    DeliverReport {
        environment,
        answer_after_ms: options.answer_after.as_millis(),
        endpoints: options.endpoints,
        bad: options.bad,
        keyed_beside_per_second: options.keyed_beside_per_second,
        runs,
        bare,
        p95_ms,
        p95_beside_ms,
        per_second,
        ratio,
        passed,
    }
}
