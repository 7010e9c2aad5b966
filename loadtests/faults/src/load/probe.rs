//! Sends one event to each instance of `ingest` after a fault. The senders use the instances in turns, so they would
//! not notice one that accepts nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::context::{Naming, RoundContext, SENDERS_PER_TENANT};
use super::http;
use super::sender::Sender;
use crate::client::Api;
use crate::ledger::SendOutcome;

/// Wait before a retry.
const PAUSE: Duration = Duration::from_millis(200);

/// Sends to each instance until it has accepted an event. Returns the seconds from `since` until the last instance did.
///
/// # Errors
/// The instances that accepted nothing in time, as a sentence.
pub(crate) async fn probe_all(
    context: &RoundContext,
    base_urls: Vec<String>,
    since: Instant,
    timeout: Duration,
) -> Result<f64, String> {
    // In parallel: a slow instance does not use up the time of the others.
    let tenants = context.tenants.len();
    let mut probes = JoinSet::new();
    for (nth, base_url) in base_urls.into_iter().enumerate() {
        let message = format!("the ingest at {base_url} accepted nothing within {} s", timeout.as_secs());
        let context = with_instance(context, base_url).map_err(|error| format!("{error:#}"))?;
        // A number, and with it an ordering key, that no sender has.
        let number = tenants * SENDERS_PER_TENANT + nth;
        probes.spawn(async move {
            let (_stop, never_stopped) = watch::channel(false);
            let sender = Sender { context: Arc::new(context), tenant: 0, number, interval: PAUSE, stop: never_stopped };
            if until_accepted(&sender, since, timeout).await { Ok(()) } else { Err(message) }
        });
    }
    let refused: Vec<String> = probes.join_all().await.into_iter().filter_map(Result::err).collect();
    if refused.is_empty() { Ok(since.elapsed().as_secs_f64()) } else { Err(refused.join("; ")) }
}

/// Each try is a new event, which is recorded like all others.
async fn until_accepted(sender: &Sender, since: Instant, timeout: Duration) -> bool {
    let mut seq = 0;
    while since.elapsed() < timeout {
        let outcome = http::once(sender, Naming::None, &sender.tag(seq)).await;
        if matches!(outcome, SendOutcome::Accepted { .. }) {
            return true;
        }
        seq += 1;
        tokio::time::sleep(PAUSE).await;
    }
    false
}

/// The same context, with only one instance to send to.
fn with_instance(context: &RoundContext, base_url: String) -> anyhow::Result<RoundContext> {
    Ok(RoundContext {
        api: Arc::new(Api::new(vec![base_url])?),
        brokers: context.brokers.clone(),
        topics: context.topics.clone(),
        tenants: Arc::clone(&context.tenants),
        ledger: Arc::clone(&context.ledger),
        receiver: Arc::clone(&context.receiver),
        rate: context.rate,
        prefix: context.prefix.clone(),
    })
}
