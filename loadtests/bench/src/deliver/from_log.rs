//! S10: webhooks from a log that waits for its dispatcher, beside the bare client.

use std::time::Duration;

use loadkit::{Failure, Role, RunEnvironment};

use super::endpoints::Endpoints;
use super::receiver::Receiver;
use super::report::DeliverReport;
use super::{Options, Sent, bare, print};
use crate::control_client::ControlClient;
use crate::system::System;
use crate::{lag, organizations};

/// The dispatcher must have read what is on the log within this time.
const READ_BUDGET: Duration = Duration::from_secs(300);

/// In each round: fills the log while no dispatcher runs, starts one, and waits until everything has arrived. No
/// materializer runs.
pub(crate) async fn run(system: &mut System, options: &Options) -> Result<DeliverReport, Failure> {
    let environment = RunEnvironment::detect();
    let (mut runs, mut bare) = (Vec::new(), Vec::new());
    let without_dispatcher = [Role::Ingest];
    let both = [Role::Ingest, Role::Dispatcher];
    system.run(&both).await?;
    let control = ControlClient::new(&system.target.address)?;
    let organizations = organizations::ensure(&system.target, &control, options.load.organizations, 0).await?.list;
    // Events of earlier steps must not arrive at the new endpoints.
    lag::wait_for(&system.target, Role::Dispatcher, READ_BUDGET).await?;
    let receiver = Receiver::start(options.answer_after)?;
    let endpoints = Endpoints::of_each(&control, &organizations, &receiver, options.endpoints).await?;
    for round in 0..options.rounds {
        eprintln!("from the log, round {} of {}", round + 1, options.rounds);
        system.keep_only(&without_dispatcher).await?;
        receiver.take();
        let components = system.components();
        let sent = Sent::send(&system.target, options, &components, &organizations, false).await?;
        system.run(&both).await?;
        let run = sent.arrive(&receiver, options, false).await;
        print(&run, options);
        runs.push(run);
        if let Some(in_flight) = options.bare_in_flight {
            bare.push(bare::run(&receiver, &options.load, in_flight).await?);
        }
    }
    endpoints.delete().await?;
    system.keep_only(&[]).await?;
    Ok(DeliverReport::conclude(environment, options, runs, bare))
}
