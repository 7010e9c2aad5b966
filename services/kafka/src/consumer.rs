//! The fenced consumer: reads the partitions that the group gives to this instance, each from its position in
//! PostgreSQL, under a claim.
//!
//! Two clients on two threads, and a third that watches over them. The *group* client subscribes to one topic. For
//! every partition `i` it is given, a second, *following* client reads partition `i` of further topics, so that one
//! instance owns everything of an organization. Both hand what they read to the owner through one bounded channel, in
//! which a claim always stands before the first record read under it and a revocation after the last. Kafka's committed
//! offsets are written as a hint for lag tools and never read.
//!
//! What is done with the records, and moving the positions ([`crate::fence::advance`]), is the owner's business.

mod assignments;
mod chunk;
mod companion;
mod group;
mod lag;
mod leader_epochs;
mod leaderless;
mod log_ends;
mod markers;
mod runner;
mod stall;
mod topic_ids;
mod truncation;
mod undecodable;
mod watch;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use sqlx::postgres::PgPool;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use self::assignments::{Assignments, Progress};
pub use self::lag::{Lag, Reached};
use self::leader_epochs::{LeaderEpochs, ReadEpochs};
use self::leaderless::Leaderless;
pub use self::log_ends::LogEnds;
use self::markers::Markers;
pub use self::runner::{Ended, Runner, Session, TopicPartition, finished};
use self::topic_ids::Pauses;
use self::undecodable::Undecodable;
use super::{KafkaConfig, Record};
use crate::fence::Claim;
use runtime::telemetry::throttle::Throttle;

/// Chunks that wait in the channel; with librdkafka's own queue this bounds what is read ahead.
const CHANNEL_CHUNKS: usize = 4;
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
const COMMIT_HINT_INTERVAL: Duration = Duration::from_secs(1);

/// Knobs of a fenced consumer.
#[derive(Debug, Clone)]
pub struct ConsumerSettings {
    /// Name in `consumer_positions`.
    pub consumer: String,
    /// Kafka's group id.
    pub group: String,
    /// The topic whose partitions the group shares out.
    pub topic: String,
    /// Topics that are read at the same partitions.
    pub companion_topics: Vec<String>,
    /// How long a silent member keeps its partitions.
    pub session_timeout: Duration,
    /// How long records may be there without one coming before the consumer ends as failed, to be restarted.
    pub stall_after: Duration,
    /// How long the broker gathers records before it answers a fetch. Shorter is sooner, and costs the broker, this
    /// process and the owner a round for every few records: answering each at once took a fifth of the broker's
    /// processor time at 10,000 records a second.
    pub fetch_wait: Duration,
}

impl ConsumerSettings {
    /// Settings with the default session timeout of 10 s, stalls after 30 s, fetches of 5 ms and nothing followed.
    pub fn new(consumer: &str, group: &str, topic: &str) -> Self {
        Self {
            consumer: consumer.to_owned(),
            group: group.to_owned(),
            topic: topic.to_owned(),
            companion_topics: Vec::new(),
            session_timeout: Duration::from_secs(10),
            stall_after: Duration::from_secs(30),
            fetch_wait: Duration::from_millis(5),
        }
    }
}

/// What the consumer tells its owner, in order.
#[derive(Debug)]
pub enum ConsumerEvent {
    /// These partitions, of all topics, are now read under these claims.
    Assigned(Vec<Claim>),
    /// These partitions of every topic now belong to somebody else. What is not committed is theirs to read again.
    Revoked(Vec<i32>),
    /// Records, in offset order within each partition.
    Records(Vec<Record>),
    /// The partition is not read. Its stored position is outside of the log (topic recreated or truncated), until an
    /// operator repairs it; or the next batch does not decode, until an operator skips it; or the brokers do not tell
    /// where its log begins and ends, until they do: then it is assigned.
    Stopped {
        /// Topic.
        topic: Arc<str>,
        /// Partition.
        partition: i32,
        /// What is wrong, with figures, and the command to use; or what the brokers said.
        reason: String,
    },
    /// The consumer ended and must be restarted.
    Failed(String),
}

/// Where the threads meet the owner.
#[derive(Clone)]
struct EventSender {
    inflow: mpsc::Sender<ConsumerEvent>,
    stopping: Arc<AtomicBool>,
}

impl EventSender {
    /// Hands `message` over, waiting while the owner is busy. `false`: the owner is gone, or the consumer is being
    /// stopped.
    fn send(&self, message: ConsumerEvent) -> bool {
        let mut message = message;
        loop {
            if self.is_stopping() {
                return false;
            }
            // Not `blocking_send`: a full channel must not outlive a stop.
            match self.inflow.try_send(message) {
                Ok(()) => return true,
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
                Err(mpsc::error::TrySendError::Full(back)) => {
                    message = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed) || self.inflow.is_closed()
    }
}

/// What a reading thread shares with the others.
#[derive(Clone)]
struct Shared {
    kafka: KafkaConfig,
    outlet: EventSender,
    log_ends: LogEnds,
    held: Assignments,
    epochs: LeaderEpochs,
    leaderless: Leaderless,
    undecodable: Undecodable,
    reading: Progress,
}

/// A running fenced consumer.
pub struct FencedConsumer {
    /// The thread owns it: who drops it leaves the group, with callbacks that block, which no thread of the runtime may
    /// do.
    client: Weak<BaseConsumer<group::GroupContext>>,
    topic: String,
    log_ends: LogEnds,
    stopping: Arc<AtomicBool>,
    ended: Vec<oneshot::Receiver<()>>,
    last_hint: std::sync::Mutex<Option<Instant>>,
}

impl FencedConsumer {
    /// Starts its threads. Must be called within a runtime: claims are made on it.
    ///
    /// # Errors
    /// When a configured property does not exist or contradicts another, or no thread can be had.
    pub fn start(
        kafka: &KafkaConfig,
        pool: PgPool,
        settings: ConsumerSettings,
    ) -> Result<(Self, mpsc::Receiver<ConsumerEvent>), KafkaError> {
        let (inflow, receiver) = mpsc::channel(CHANNEL_CHUNKS);
        let stopping = Arc::new(AtomicBool::new(false));
        let log_ends = LogEnds::default();
        let outlet = EventSender { inflow, stopping: stopping.clone() };
        let (held, leaderless, readings) =
            (Assignments::default(), Leaderless::default(), [Progress::default(), Progress::default()]);
        let undecodable = Undecodable::default();
        let epochs = LeaderEpochs::new(pool.clone(), &settings.consumer, held.clone());
        let [group_reading, followed_reading] = readings.clone();
        let shared = |reading| Shared {
            kafka: kafka.clone(),
            outlet: outlet.clone(),
            log_ends: log_ends.clone(),
            held: held.clone(),
            epochs: epochs.clone(),
            leaderless: leaderless.clone(),
            undecodable: undecodable.clone(),
            reading,
        };
        let (follower, followed_end) = companion::start(kafka, &settings, shared(followed_reading))?;
        let (client, group_end) = group::start(kafka, pool.clone(), &settings, shared(group_reading), follower)?;
        let watch_end = watch::start(kafka, pool, &settings, shared(Progress::default()), readings)?;
        let consumer = Self {
            client,
            topic: settings.topic,
            log_ends,
            stopping,
            ended: vec![group_end, followed_end, watch_end],
            last_hint: std::sync::Mutex::new(None),
        };
        Ok((consumer, receiver))
    }

    /// Where the partitions that are read end, as the brokers last said.
    pub fn log_ends(&self) -> &LogEnds {
        &self.log_ends
    }

    /// Copies positions of the subscribed topic to Kafka for lag tools, at most once a second; calls in between are
    /// dropped.
    pub fn commit_hint(&self, positions: impl Iterator<Item = (i32, i64)>) {
        let mut last = self.last_hint.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.is_some_and(|at| at.elapsed() < COMMIT_HINT_INTERVAL) {
            return;
        }
        *last = Some(Instant::now());
        drop(last);
        let mut offsets = TopicPartitionList::new();
        for (partition, next_offset) in positions {
            if let Err(error) = offsets.add_partition_offset(&self.topic, partition, Offset::Offset(next_offset)) {
                warn!(%error, "A position does not fit into a commit.");
            }
        }
        // Fails while rebalancing; the next hint replaces it.
        let Some(client) = self.client.upgrade() else { return };
        if let Err(error) = client.commit(&offsets, CommitMode::Async) {
            tracing::debug!(%error, "The commit hint was refused.");
        }
    }

    /// Leaves the group and ends the threads, waiting at most `deadline`. Drop the receiver first or keep draining it.
    pub async fn stop(self, deadline: Duration) {
        self.stopping.store(true, Ordering::Relaxed);
        for ended in self.ended {
            if tokio::time::timeout(deadline, ended).await.is_err() {
                warn!("A consumer thread did not end in time and is left behind.");
            }
        }
    }
}

/// Errors come ten times a second while brokers are away: a line for some of them tells it.
static ERROR_LINES: Throttle = Throttle::new(1);

/// Runs `read` on a thread of its own; what comes back resolves when it has ended. A panic is reported to the owner: the
/// other threads hold the channel open, and nobody else would notice that nothing comes any more.
fn on_thread(
    name: String,
    outlet: EventSender,
    read: impl FnOnce() + Send + 'static,
) -> Result<oneshot::Receiver<()>, KafkaError> {
    let (ended, end) = oneshot::channel();
    let thread = name.clone();
    let run = move || {
        // What `read` owns is gone with the panic, and what it shares with other threads is behind locks that are taken
        // poisoned.
        if catch_unwind(AssertUnwindSafe(read)).is_err() {
            error!(thread, "A reading thread panicked.");
            let _told = outlet.send(ConsumerEvent::Failed(format!("its thread {thread} panicked")));
        }
        let _nobody_waits = ended.send(());
    };
    std::thread::Builder::new().name(name).spawn(run).map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
    Ok(end)
}

/// What both clients have in common.
fn base_config(kafka: &KafkaConfig, settings: &ConsumerSettings, role: &str) -> rdkafka::ClientConfig {
    let mut config = kafka.client(role);
    config
        .set("group.id", &settings.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // A position outside of the log is an operator's decision, never a silent jump.
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("statistics.interval.ms", "1000")
        // Read-ahead in librdkafka: enough for a catch-up at full speed, small enough to bound memory. When it is full
        // the next fetch waits only 10 ms; the default second shows as stalls.
        .set("queued.min.messages", "20000")
        .set("queued.max.messages.kbytes", "32768")
        .set("fetch.queue.backoff.ms", "10")
        // The broker gathers for a few milliseconds, unless there is a good chunk already.
        .set("fetch.wait.max.ms", settings.fetch_wait.as_millis().to_string())
        .set("fetch.min.bytes", "100000")
        .set("fetch.error.backoff.ms", "100");
    config
}

/// What a reading thread remembers between two chunks.
#[derive(Default)]
struct ReadState {
    markers: Markers,
    pauses: Pauses,
}

/// Polls once and hands over what there is. `false`: the client is of no use any more, which is reported to the owner.
fn poll_and_forward<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic_of: &mut impl FnMut(&str) -> Arc<str>,
    shared: &Shared,
    state: &mut ReadState,
) -> bool {
    let outlet = &shared.outlet;
    let begun = Instant::now();
    let (mut records, mut epochs, error) = chunk::poll(client, topic_of);
    shared.reading.note(client, begun.elapsed());
    if records.is_empty() && error.is_none() {
        records = state.markers.find(client, &mut epochs);
    }
    if let Err(reason) = check_log(client, &epochs, shared, state) {
        error!(reason, "Consumer fails before it hands over records that it read.");
        let _reported = outlet.send(ConsumerEvent::Failed(reason));
        return false;
    }
    if !records.is_empty() {
        state.markers.note(&records);
        let _told = outlet.send(ConsumerEvent::Records(records));
    }
    if let Err(error) = shared.undecodable.stop(client, outlet, &shared.held) {
        let _told = outlet.send(ConsumerEvent::Failed(format!("a partition could not be paused: {error}")));
        return false;
    }
    match error {
        None => {}
        Some(KafkaError::MessageConsumptionFatal(code)) => {
            let _told = outlet.send(ConsumerEvent::Failed(code.to_string()));
            return false;
        }
        Some(error) if truncation::is_truncation(&error) => truncation::report(client, shared),
        // Brokers away, leader moving, topic not there yet.
        Some(error) => {
            if let Some(held_back) = ERROR_LINES.admit() {
                warn!(%error, held_back, "Kafka consumer error; librdkafka retries it.");
            }
        }
    }
    true
}

/// Whether what was read may be of another log than the claims are for.
fn check_log<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    read: &ReadEpochs,
    shared: &Shared,
    state: &mut ReadState,
) -> Result<(), String> {
    if let Some(topic) = state.pauses.end(client, &shared.held, read.places()) {
        return Err(format!("{topic} was deleted and created again"));
    }
    shared.epochs.store(read, &shared.outlet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_owner_is_told_of_a_thread_that_panics_though_others_hold_the_channel_open() {
        let (inflow, mut receiver) = mpsc::channel(1);
        let outlet = EventSender { inflow, stopping: Arc::default() };
        let ended = on_thread("test-group".to_owned(), outlet.clone(), || panic!("on purpose")).unwrap();
        let reported = receiver.recv().await.unwrap();
        assert!(matches!(&reported, ConsumerEvent::Failed(reason) if reason.contains("test-group")), "{reported:?}");
        ended.await.expect("its end is reported too");
        drop(outlet);
    }
}
