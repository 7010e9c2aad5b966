//! Events that are in the view before a run, so that reads and writes meet a full one.

use std::time::Duration;

use loadkit::{Failure, Role};

use crate::generator::Generator;
use crate::lag;
use crate::organizations::Organization;
use crate::product;
use crate::request::Requests;
use crate::scenario::{Load, Pace};
use crate::schedule::Schedule;
use crate::session;
use crate::target::Target;
use crate::variation::Shares;

/// Events of one request, and requests a second.
const BATCH_EVENTS: u64 = 100;
const BATCHES_PER_SECOND: u64 = 200;
/// Connections: so few that no request has to wait for memory.
const CONNECTIONS: usize = 8;
/// The view must have all of them within this time.
const DEADLINE: Duration = Duration::from_secs(1_800);

/// Sends about `events` events for `organizations` in turns, as `load` has them, through the batch route, and waits
/// until the view has them.
pub(crate) async fn run(
    target: &Target,
    load: &Load,
    organizations: &[Organization],
    events: u64,
) -> Result<(), Failure> {
    if target.kafka_brokers.is_none() || target.database_url.is_none() {
        let text = "--preload-events waits for the view: it needs the broker and the database of `triggers up`";
        return Err(Failure::Usage(text.to_owned()));
    }
    eprintln!("putting {events} events into the inbox of {} organizations", organizations.len());
    let hold = Duration::from_millis(events.div_ceil(BATCH_EVENTS) * 1_000 / BATCHES_PER_SECOND);
    let load = Load {
        pace: Pace::Open(Schedule::new(BATCHES_PER_SECOND, Duration::ZERO, hold)),
        measured: hold,
        connections: CONNECTIONS,
        client_threads: 1,
        batch_events: BATCH_EVENTS as usize,
        organizations: organizations.len(),
        shares: Shares::Even,
        keyed: false,
        stops: false,
        ..*load
    };
    let requests = Requests::new(&target.address, organizations, &load, "preload");
    let generator = Generator::start(load, target.addresses(), requests, None).await?;
    let session = session::watch(generator, &load, &[], None).await?;
    let accepted = product::accepted_events(&session, &load);
    lag::wait_for(target, Role::Materializer, DEADLINE).await?;
    if accepted < events {
        return Err(anyhow::anyhow!("of {events} events to put into the view, {accepted} were accepted").into());
    }
    Ok(())
}
