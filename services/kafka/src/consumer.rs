//! The fenced consumer: reads the partitions that the consumer group assigns to this instance, each from its position
//! in PostgreSQL, under a claim.
//!
//! It has three threads with one Kafka client each. The *group* client subscribes to one topic. For every partition `i`
//! that it is assigned, the *companion* client reads partition `i` of the companion topics, so that one instance owns
//! all partitions of an organization. The *watch* checks the two others. All send their events through one bounded
//! channel. In it, a claim always comes before the first record that is read under it, and a revocation after the last
//! one. Offsets are committed to Kafka as a hint for lag tools and never read.
//!
//! The owner processes the records and moves the positions ([`crate::fence::advance`]).

mod assignments;
mod chunk;
mod companion;
mod group;
mod lag;
mod leader_epochs;
mod leaderless;
mod log_ends;
mod lost_claims;
mod markers;
mod runner;
mod stall;
mod topic_ids;
mod truncation;
mod unclaimed;
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
pub use self::lag::{CommitProgress, Lag};
use self::leader_epochs::{LeaderEpochs, ReadEpochs};
use self::leaderless::Leaderless;
pub use self::log_ends::LogEnds;
use self::markers::Markers;
pub use self::runner::{Runner, Session, SessionEnd, finished};
use self::topic_ids::Pauses;
use self::undecodable::Undecodable;
use super::{KafkaConfig, Record, access};
use crate::fence::Claim;
use runtime::telemetry::throttle::Throttle;

/// Chunks that wait in the channel; with librdkafka's own queue this bounds what is read ahead.
const CHANNEL_CHUNKS: usize = 4;
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
const COMMIT_HINT_INTERVAL: Duration = Duration::from_secs(1);

/// How long a fetch waits at the broker for a first record. It leaves out partitions whose records were just read, and
/// those that are assigned meanwhile: if the others have no record, these wait for so long.
const FETCH_WAIT: Duration = Duration::from_millis(40);

/// Settings of a fenced consumer.
#[derive(Debug, Clone)]
pub struct ConsumerSettings {
    /// Name in `consumer_positions`.
    pub consumer: String,
    /// Kafka's group id.
    pub group: String,
    /// The topic whose partitions the group distributes.
    pub topic: String,
    /// Companion topics: they are read at the same partitions.
    pub companion_topics: Vec<String>,
    /// How long a member that sends no heartbeat keeps its partitions.
    pub session_timeout: Duration,
    /// How long a partition may have lag without a record being read before the consumer fails and is restarted.
    pub stall_after: Duration,
    /// How long the consumer waits after an answer with records before it fetches again (`fetch.queue.backoff.ms`), so
    /// that more records come together. A shorter pause lowers latency, and costs the broker, this process and the
    /// owner one round for every few records.
    pub fetch_pause: Duration,
}

impl ConsumerSettings {
    /// Settings with a session timeout of 10 s, stalls after 30 s, 5 ms between fetches, and no companion topics.
    pub fn new(consumer: &str, group: &str, topic: &str) -> Self {
        Self {
            consumer: consumer.to_owned(),
            group: group.to_owned(),
            topic: topic.to_owned(),
            companion_topics: Vec::new(),
            session_timeout: Duration::from_secs(10),
            stall_after: Duration::from_secs(30),
            fetch_pause: Duration::from_millis(5),
        }
    }
}

/// What the consumer reports to its owner, in order.
#[derive(Debug)]
pub enum ConsumerEvent {
    /// These partitions, of all topics, are now owned under these claims.
    Assigned(Vec<Claim>),
    /// Another instance owns these partitions of every topic. It reads again what is not committed.
    Revoked(Vec<i32>),
    /// Records, in offset order within each partition.
    Records(Vec<Record>),
    /// The partition is not read, for one of three reasons. Its stored position is outside of the log (topic recreated
    /// or truncated), until an operator repairs it. The next batch cannot be decoded, until an operator skips it. Or it
    /// is leaderless, until the brokers report the bounds of its log; then it is assigned.
    Stopped {
        /// Topic.
        topic: Arc<str>,
        /// Partition.
        partition: i32,
        /// What is wrong, with figures, and the command to use; or the error of the brokers.
        reason: String,
    },
    /// The consumer ended and must be restarted.
    Failed(String),
}

/// Sends events from the threads to the owner.
#[derive(Clone)]
struct EventSender {
    events: mpsc::Sender<ConsumerEvent>,
    stopping: Arc<AtomicBool>,
}

impl EventSender {
    /// Sends `message`, and waits while the channel is full. `false`: the owner is gone, or the consumer is stopping.
    fn send(&self, message: ConsumerEvent) -> bool {
        let mut message = message;
        loop {
            if self.is_stopping() {
                return false;
            }
            // Not `blocking_send`: a full channel must not outlive a stop.
            match self.events.try_send(message) {
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
        self.stopping.load(Ordering::Relaxed) || self.events.is_closed()
    }
}

/// What the threads of one consumer share.
#[derive(Clone)]
struct Shared {
    kafka: KafkaConfig,
    sender: EventSender,
    log_ends: LogEnds,
    assignments: Assignments,
    epochs: LeaderEpochs,
    leaderless: Leaderless,
    undecodable: Undecodable,
    reading: Progress,
}

/// A running fenced consumer.
pub struct FencedConsumer {
    /// The thread owns the client: dropping it leaves the group, with callbacks that block, which no thread of the
    /// runtime may do.
    client: Weak<BaseConsumer<group::GroupContext>>,
    topic: String,
    log_ends: LogEnds,
    stopping: Arc<AtomicBool>,
    ended: Vec<oneshot::Receiver<()>>,
    last_hint: std::sync::Mutex<Option<Instant>>,
}

impl FencedConsumer {
    /// Starts its threads. Must be called within a runtime, which claims use.
    ///
    /// # Errors
    /// When a configured property does not exist or contradicts another, or no thread can be started.
    pub fn start(
        kafka: &KafkaConfig,
        pool: PgPool,
        settings: ConsumerSettings,
    ) -> Result<(Self, mpsc::Receiver<ConsumerEvent>), KafkaError> {
        let (events, receiver) = mpsc::channel(CHANNEL_CHUNKS);
        let stopping = Arc::new(AtomicBool::new(false));
        let log_ends = LogEnds::default();
        let sender = EventSender { events, stopping: stopping.clone() };
        let (assignments, leaderless, readings) =
            (Assignments::default(), Leaderless::default(), [Progress::default(), Progress::default()]);
        let undecodable = Undecodable::default();
        let epochs = LeaderEpochs::new(pool.clone(), &settings.consumer, assignments.clone());
        let [group_reading, companion_reading] = readings.clone();
        let shared = |reading| Shared {
            kafka: kafka.clone(),
            sender: sender.clone(),
            log_ends: log_ends.clone(),
            assignments: assignments.clone(),
            epochs: epochs.clone(),
            leaderless: leaderless.clone(),
            undecodable: undecodable.clone(),
            reading,
        };
        let (companion, companion_end) = companion::start(kafka, &settings, shared(companion_reading))?;
        let (client, group_end) = group::start(kafka, pool.clone(), &settings, shared(group_reading), companion)?;
        let watch_end = watch::start(kafka, pool, &settings, shared(Progress::default()), readings)?;
        let consumer = Self {
            client,
            topic: settings.topic,
            log_ends,
            stopping,
            ended: vec![group_end, companion_end, watch_end],
            last_hint: std::sync::Mutex::new(None),
        };
        Ok((consumer, receiver))
    }

    /// Ends of the logs of the partitions that are read, as the brokers last reported them.
    pub fn log_ends(&self) -> &LogEnds {
        &self.log_ends
    }

    /// Commits positions of the subscribed topic to Kafka for lag tools, at most once a second; calls in between do
    /// nothing.
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
                warn!(%error, "Position is no valid Kafka offset; leaving it out of the commit hint.");
            }
        }
        // Fails while rebalancing; the next hint replaces it.
        let Some(client) = self.client.upgrade() else { return };
        if let Err(error) = client.commit(&offsets, CommitMode::Async) {
            tracing::debug!(%error, "Commit hint failed; the next one replaces it.");
        }
    }

    /// Leaves the group and stops the threads; waits at most `deadline` for all of them. Returns whether all stopped.
    /// Drop the receiver first or keep draining it.
    pub async fn stop(self, deadline: Duration) -> bool {
        self.stopping.store(true, Ordering::Relaxed);
        let until = tokio::time::Instant::now() + deadline;
        let mut all_stopped = true;
        for ended in self.ended {
            all_stopped &= tokio::time::timeout_at(until, ended).await.is_ok();
        }
        all_stopped
    }
}

/// While brokers are away, errors come ten times a second: one line a second is enough.
static ERROR_LINES: Throttle = Throttle::new(1);

/// Runs `read` on a new thread; the receiver resolves when the thread has ended. A panic is reported to the owner: the
/// other threads keep the channel open, so nothing else would show it.
fn on_thread(
    name: String,
    sender: EventSender,
    read: impl FnOnce() + Send + 'static,
) -> Result<oneshot::Receiver<()>, KafkaError> {
    let (ended, end) = oneshot::channel();
    let thread = name.clone();
    let run = move || {
        // The panic drops what `read` owns. What it shares with other threads is behind locks, which ignore poison.
        if catch_unwind(AssertUnwindSafe(read)).is_err() {
            error!(thread, "Kafka consumer thread panicked; restarting consumer.");
            let _sent = sender.send(ConsumerEvent::Failed(format!("its thread {thread} panicked")));
        }
        let _nobody_waits = ended.send(());
    };
    std::thread::Builder::new().name(name).spawn(run).map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
    Ok(end)
}

/// Configuration of all clients of a consumer.
fn base_config(kafka: &KafkaConfig, settings: &ConsumerSettings, role: &str) -> rdkafka::ClientConfig {
    let mut config = kafka.client(role);
    config
        .set("group.id", &settings.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // A position outside of the log is an operator's decision, never an automatic reset.
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("statistics.interval.ms", "1000")
        // The broker answers when it has a record, so that an idle topic costs nearly nothing. After an answer with
        // records librdkafka pauses, because it fetches nothing while a record is read ahead. What is read ahead of one
        // partition delays the others when the owner is slower than the log. An answer has up to 1 MB of each
        // partition, enough for a catch-up at full speed.
        .set("queued.min.messages", "1")
        .set("queued.max.messages.kbytes", "32768")
        .set("fetch.queue.backoff.ms", settings.fetch_pause.as_millis().to_string())
        .set("fetch.min.bytes", "1")
        .set("fetch.wait.max.ms", FETCH_WAIT.as_millis().to_string())
        .set("fetch.error.backoff.ms", "100");
    config
}

/// State of a reading thread between two chunks.
#[derive(Default)]
struct ReadState {
    markers: Markers,
    pauses: Pauses,
}

/// Polls one chunk and sends it to the owner. `false`: the client cannot be used any more, which is reported.
fn poll_and_forward<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic_of: &mut impl FnMut(&str) -> Arc<str>,
    shared: &Shared,
    state: &mut ReadState,
) -> bool {
    let sender = &shared.sender;
    let started = Instant::now();
    let (mut records, mut epochs, error) = chunk::poll(client, topic_of);
    shared.reading.note(client, started.elapsed());
    if records.is_empty() && error.is_none() {
        records = state.markers.find(client, &mut epochs);
    }
    if let Err(reason) = check_log(client, &epochs, shared, state) {
        error!(reason, "Kafka consumer discards the records of this poll and stops.");
        let _reported = sender.send(ConsumerEvent::Failed(reason));
        return false;
    }
    if !records.is_empty() {
        state.markers.note(&records);
        let _sent = sender.send(ConsumerEvent::Records(records));
    }
    if let Err(error) = shared.undecodable.stop(client, sender, &shared.assignments) {
        let _sent = sender.send(ConsumerEvent::Failed(format!("a partition could not be paused: {error}")));
        return false;
    }
    match error {
        None => {}
        Some(KafkaError::MessageConsumptionFatal(code)) => {
            let _sent = sender.send(ConsumerEvent::Failed(code.to_string()));
            return false;
        }
        Some(error) if truncation::is_truncation(&error) => truncation::report(client, shared),
        Some(error) if access::is_refused(&error) => {
            let _sent = sender.send(ConsumerEvent::Failed(access::refusal(&format!("a topic or group ({error})"))));
            return false;
        }
        // Brokers away, leader moving, topic not there yet.
        Some(error) => {
            if let Some(held_back) = ERROR_LINES.admit() {
                warn!(%error, held_back, "Kafka consumer error; librdkafka retries it.");
            }
        }
    }
    true
}

/// Fails if the records may be of another log than the claims are for.
fn check_log<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    read: &ReadEpochs,
    shared: &Shared,
    state: &mut ReadState,
) -> Result<(), String> {
    if let Some(topic) = state.pauses.find_recreated(client, &shared.assignments, read.partitions()) {
        return Err(format!("{topic} was deleted and created again"));
    }
    shared.epochs.store(read, &shared.sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_panics_is_reported_to_the_owner() {
        let (events, mut receiver) = mpsc::channel(1);
        let sender = EventSender { events, stopping: Arc::default() };
        let ended = on_thread("test-group".to_owned(), sender.clone(), || panic!("on purpose")).unwrap();
        let reported = receiver.recv().await.unwrap();
        assert!(matches!(&reported, ConsumerEvent::Failed(reason) if reason.contains("test-group")), "{reported:?}");
        ended.await.expect("the end of the thread is reported too");
        drop(sender);
    }
}
