//! Load on all routes, at a moderate pace: so that the machine is not the limit and every outcome can be accounted for.
//!
//! Each sender has one request under way at a time, and one ordering key: the order in which it got its events accepted
//! is then the order in which they must be shown.

mod acknowledging;
mod http;
mod native;
mod probing;
mod reading;

use std::sync::Arc;
use std::time::{Duration, Instant};

use schemas::topics::TopicNames;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

pub use self::probing::reach_all;
use super::client::Api;
use super::ledger::Ledger;
use super::receiver::Receiver;

/// How long senders may take to end: one request of each, and the wait for Kafka's last report.
const STOP: Duration = Duration::from_secs(60);
/// By HTTP one sender for each kind of name.
const NAMINGS: [Naming; 3] = [Naming::None, Naming::Idempotency, Naming::DedupId];
/// Senders of each organization: those, and a native one.
const PER_TENANT: usize = NAMINGS.len() + 1;
/// Events shown that may wait to be looked at for an acknowledgement.
const SHOWN: usize = 10_000;

/// An organization of one round.
pub struct Tenant {
    /// Its id.
    pub org: Uuid,
    /// A key that may do everything with events.
    pub key: String,
    /// Its endpoints at the receiver.
    pub endpoints: Vec<String>,
}

/// What the load needs to know.
pub struct Ground {
    /// To send to.
    pub api: Arc<Api>,
    /// To write natively to.
    pub brokers: String,
    /// Names of the topics.
    pub topics: TopicNames,
    /// Who is sent for.
    pub tenants: Arc<Vec<Tenant>>,
    /// Takes everything down.
    pub ledger: Arc<Ledger>,
    /// Knows what was delivered: an event is acknowledged only after that.
    pub receiver: Arc<Receiver>,
    /// Events a second over all senders.
    pub rate: u32,
    /// Begins every tag, so that rounds cannot be taken for each other.
    pub prefix: String,
}

impl Ground {
    /// What was not taken of anybody since then, in a sentence: events of one kind of HTTP sender, or acknowledgements.
    pub fn not_taken_since(&self, since: Instant) -> Option<String> {
        let taken = self.ledger.taken_since(since);
        let is_silent =
            |nth: usize| !(0..self.tenants.len()).any(|tenant| taken.contains(&(tenant * PER_TENANT + nth)));
        if let Some((_, naming)) = NAMINGS.iter().enumerate().find(|(nth, _)| is_silent(*nth)) {
            return Some(format!("no event with the name {naming:?} that was sent since was accepted"));
        }
        (!self.ledger.confirmed_since(since)).then(|| "no acknowledgement that was sent since was confirmed".to_owned())
    }
}

/// A running load.
pub struct Load {
    stop: watch::Sender<bool>,
    readers_stop: watch::Sender<bool>,
    senders: JoinSet<()>,
    readers: JoinSet<()>,
}

/// How a sender names its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// Not at all: an unknown outcome is never repeated.
    None,
    /// `Idempotency-Key`.
    Idempotency,
    /// `dedup_id`.
    DedupId,
}

/// What every sender has.
struct Sender {
    ground: Arc<Ground>,
    tenant: usize,
    number: usize,
    pause: Duration,
    stop: watch::Receiver<bool>,
}

impl Load {
    /// Starts all senders and readers.
    pub fn start(ground: &Arc<Ground>) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (readers_stop, readers_stopped) = watch::channel(false);
        let (mut senders, mut readers) = (JoinSet::new(), JoinSet::new());
        let count = u32::try_from(ground.tenants.len() * PER_TENANT).unwrap_or(u32::MAX);
        let pause = Duration::from_secs(1) * count / ground.rate.max(1);
        let producer = native::producer(&ground.brokers)?;
        for tenant in 0..ground.tenants.len() {
            let sender = |nth: usize| Sender {
                ground: Arc::clone(ground),
                tenant,
                number: tenant * PER_TENANT + nth,
                pause,
                stop: stopped.clone(),
            };
            for (nth, naming) in NAMINGS.into_iter().enumerate() {
                senders.spawn(http::send(sender(nth), naming));
            }
            senders.spawn(native::send(sender(NAMINGS.len()), producer.clone()));
            let (told, shown) = mpsc::channel(SHOWN);
            readers.spawn(reading::follow(Arc::clone(ground), tenant, told, readers_stopped.clone()));
            readers.spawn(acknowledging::acknowledge(
                Arc::clone(ground),
                tenant,
                producer.clone(),
                shown,
                readers_stopped.clone(),
            ));
        }
        Ok(Self { stop, readers_stop, senders, readers })
    }

    /// Ends the sending, waiting for what is under way; reading goes on.
    pub async fn stop_sending(&mut self) {
        let _none_left = self.stop.send(true);
        finish(&mut self.senders).await;
    }

    /// Ends the reading.
    pub async fn stop_reading(mut self) {
        let _none_left = self.readers_stop.send(true);
        finish(&mut self.readers).await;
    }
}

async fn finish(tasks: &mut JoinSet<()>) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP, all).await.is_err() {
        // What is cut off here has no outcome, which is the same as an unknown one that was never noted: it would show
        // as never sent.
        eprintln!("a sender did not end within {} s", STOP.as_secs());
        tasks.shutdown().await;
    }
}

impl Sender {
    fn tag(&self, seq: u64) -> String {
        format!("{}-o{}-s{}-{seq}", self.ground.prefix, self.tenant, self.number)
    }

    fn tenant(&self) -> Option<&Tenant> {
        self.ground.tenants.get(self.tenant)
    }

    /// The body of an event, the same bytes for the same tag.
    fn body(&self, tag: &str, dedup_id: bool) -> String {
        let org = self.tenant().map(|tenant| tenant.org);
        let mut event = json!({
            "event_type": format!("fault.{}", self.number % 3),
            "payload": {"tag": tag, "org": org, "pad": "x".repeat(200)},
            "ordering_key": format!("key-{}", self.number),
        });
        if let (true, Some(fields)) = (dedup_id, event.as_object_mut()) {
            fields.insert("dedup_id".to_owned(), tag.into());
        }
        event.to_string()
    }

    /// Waits for the next turn; `false` when it is time to end.
    async fn turn(&mut self, begun: Instant) -> bool {
        let left = self.pause.saturating_sub(begun.elapsed());
        tokio::select! {
            _ = self.stop.wait_for(|stop| *stop) => false,
            () = tokio::time::sleep(left) => true,
        }
    }

    fn stopping(&self) -> bool {
        *self.stop.borrow()
    }
}
