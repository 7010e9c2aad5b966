//! One event through each instance of `ingest` after the fault: the senders' requests go to the instances in turns, so
//! one that takes nothing any more would not stand out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Ground, Naming, PER_TENANT, Sender, http};
use crate::faults::client::Api;
use crate::faults::ledger::Outcome;

/// Wait after an event that was not accepted.
const PAUSE: Duration = Duration::from_millis(200);

/// Sends to each instance until it has accepted an event. Answers how long after `since` the last of them had, in
/// seconds, or which had not in time.
pub async fn reach_all(
    ground: &Ground,
    base_urls: Vec<String>,
    since: Instant,
    patience: Duration,
) -> Result<f64, String> {
    // At the same time: the patience that one of them takes is not taken from the others.
    let mut probes = JoinSet::new();
    for (nth, base_url) in base_urls.into_iter().enumerate() {
        let told = format!("the ingest at {base_url} accepted nothing within {} s", patience.as_secs());
        let through = through(ground, base_url).map_err(|error| format!("{error:#}"))?;
        // A number, and with it an ordering key, that no sender has.
        let number = ground.tenants.len() * PER_TENANT + nth;
        probes.spawn(async move {
            let (_stop, never_stopped) = watch::channel(false);
            let sender = Sender { ground: Arc::new(through), tenant: 0, number, pause: PAUSE, stop: never_stopped };
            if until_accepted(&sender, since, patience).await { Ok(()) } else { Err(told) }
        });
    }
    let refused: Vec<String> = probes.join_all().await.into_iter().filter_map(Result::err).collect();
    if refused.is_empty() { Ok(since.elapsed().as_secs_f64()) } else { Err(refused.join("; ")) }
}

/// Each try is an event of its own, noted like all others: what came of one that was not accepted does not matter here.
async fn until_accepted(sender: &Sender, since: Instant, patience: Duration) -> bool {
    let mut seq = 0;
    while since.elapsed() < patience {
        let outcome = http::once(sender, Naming::None, &sender.tag(seq)).await;
        if matches!(outcome, Outcome::Accepted { .. }) {
            return true;
        }
        seq += 1;
        tokio::time::sleep(PAUSE).await;
    }
    false
}

/// The same ground, with one instance to send to.
fn through(ground: &Ground, base_url: String) -> anyhow::Result<Ground> {
    Ok(Ground {
        api: Arc::new(Api::new(vec![base_url])?),
        brokers: ground.brokers.clone(),
        topics: ground.topics.clone(),
        tenants: Arc::clone(&ground.tenants),
        ledger: Arc::clone(&ground.ledger),
        receiver: Arc::clone(&ground.receiver),
        rate: ground.rate,
        prefix: ground.prefix.clone(),
    })
}
