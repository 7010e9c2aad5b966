//! `deliver`: webhooks under load. Every organization has an endpoint of a receiver in this process, and the run counts
//! which accepted event arrived, when, and how often.
//!
//! With `--bad`, runs with and without bad endpoints of another organization take turns; with `--keyed-beside`, runs
//! with and without keyed events of the same organizations. With `--bare`, a bare client that signs and posts takes
//! turns with the product.

pub(crate) mod bare;
pub(crate) mod endpoints;
pub(crate) mod figures;
pub(crate) mod from_log;
mod keyed;
pub(crate) mod receiver;
pub(crate) mod report;

use std::path::Path;
use std::time::{Duration, Instant};

use loadkit::{Failure, RunEnvironment};

use crate::control_client::ControlClient;
use crate::eventually::eventually;
use crate::figures::Figures;
use crate::generator::Generator;
use crate::organizations::{self, Organization};
use crate::process_usage::Component;
use crate::product;
use crate::recorder::AcceptedEvent;
use crate::report::write_json;
use crate::request::Requests;
use crate::scenario::Load;
use crate::session;
use crate::target::Target;
use endpoints::{Bad, EndpointOptions, Endpoints};
use keyed::KeyedLoad;
use receiver::Receiver;
use report::{DeliverReport, Run};

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

/// Runs everything and writes the report into `folder`. Returns whether all checks passed.
pub(crate) async fn run(target: &Target, options: &Options, folder: &Path) -> Result<bool, Failure> {
    let report = measure_in_turns(target, options).await?;
    write_json(folder, &report)?;
    println!("report in {}", folder.display());
    Ok(report.passed)
}

/// Runs everything, each round with and without what is beside, and then the bare client.
pub(crate) async fn measure_in_turns(target: &Target, options: &Options) -> Result<DeliverReport, Failure> {
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
    Ok(DeliverReport::conclude(environment, options, runs, bare))
}

/// One load, and the wait for its webhooks.
async fn measure(
    target: &Target,
    options: &Options,
    organizations: &[Organization],
    receiver: &Receiver,
    beside: bool,
) -> Result<Run, Failure> {
    receiver.take();
    let components = product::components(target, &options.components);
    let sent = Sent::send(target, options, &components, organizations, beside).await?;
    let run = sent.arrive(receiver, options, beside).await;
    print(&run, options);
    Ok(run)
}

/// A load that was sent.
struct Sent {
    accept: Figures,
    count: u64,
    /// The events by their ids; none of batches, whose replies have many ids, of which only one is read.
    accepted: Vec<AcceptedEvent>,
    started: Instant,
}

impl Sent {
    async fn send(
        target: &Target,
        options: &Options,
        components: &[Component],
        organizations: &[Organization],
        beside: bool,
    ) -> Result<Self, Failure> {
        let load = &options.load;
        let run_tag = format!("{:x}", time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000);
        let requests = Requests::new(&target.address, organizations, load, &run_tag);
        let keyed = match options.keyed_beside_per_second.filter(|_| beside) {
            Some(rate) => Some(KeyedLoad::start(target, organizations, load, rate, &run_tag).await?),
            None => None,
        };
        let generator = Generator::start(*load, target.addresses(), requests, None).await?;
        let started = generator.started;
        let session = session::watch(generator, load, components, None).await?;
        let accept = Figures::of(load, &session);
        let count = product::accepted_events(&session, load);
        keyed.map(KeyedLoad::end).transpose()?;
        let accepted = match load.batch_events {
            1 => session.recorder.into_accepted(organizations.len()).into_iter().flatten().collect(),
            _ => Vec::new(),
        };
        Ok(Self { accept, count, accepted, started })
    }

    /// Waits until everything has arrived, at most for `options.settle`.
    async fn arrive(self, receiver: &Receiver, options: &Options, beside: bool) -> Run {
        let all = async || Ok(receiver.has_received(self.count, &self.accepted).then_some(()));
        // What is missing then is counted.
        let _all_or_some = eventually(LOOK_AGAIN, options.settle, "all webhooks arrive", all).await;
        let measured_from = options.load.pace.measured_from();
        let deliveries = figures::join(self.count, &self.accepted, &receiver.take(), self.started, measured_from);
        Run { beside, accept: self.accept, deliveries }
    }
}

fn print(run: &Run, options: &Options) {
    let Run { beside, accept, deliveries } = run;
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
}
