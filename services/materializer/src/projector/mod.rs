//! From the log to the tables: one loop that collects records while its previous transaction runs, and writes them
//! together with the positions they were read up to.
//!
//! Lives here: what a record becomes in the view, which of two duplicates is the original, and dead letters. Does not
//! live here: reading Kafka and the fence (`platform`), what a record says (`schemas`), and reading the view
//! (`crate::inbox`).

pub(crate) mod batch;
mod dead_letters;
mod decode;
mod duplicates;
mod erasing;
mod event_row;
pub(crate) mod flush;
pub(crate) mod generation;
mod lag;
mod organizations;
mod reach;
pub(crate) mod reconcile;
mod retention;
mod sweep;
mod time_partitions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use platform::erasure::Erasure;
use platform::fence;
use platform::health::{Component, Health};
use platform::kafka::KafkaConfig;
use platform::kafka::consumer::{ConsumerSettings, FencedConsumer, Inflow};
use platform::kafka::producer::Producer;
use schemas::topics::TopicNames;
use sqlx::postgres::PgPool;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use batch::{Collector, Place};
use flush::{Flusher, Outcome};

/// Name of this consumer in `consumer_positions`: what it has passed is visible in the view.
pub const CONSUMER: &str = schemas::topics::MATERIALIZER;

/// Knobs of the projector.
#[derive(Debug, Clone)]
pub struct ProjectorConfig {
    /// Records in one transaction at most.
    pub max_flush_records: usize,
    /// Bytes of records in one transaction at most.
    pub max_flush_bytes: usize,
    /// How long a silent instance keeps its partitions.
    pub session_timeout: Duration,
    /// How long records may be there without one being read before the consumer is started anew.
    pub stall_after: Duration,
    /// How often what nothing will ask for again is taken away.
    pub sweep_interval: Duration,
    /// For how many days the view keeps an event at least, acknowledged or not; 1 to [`MAX_RETENTION_DAYS`].
    pub retention_days: u32,
    /// How often the view's parts are looked after: made ahead, and dropped after their time.
    pub retention_interval: Duration,
    /// How long ending may take after a shutdown began: half for the running transaction, half for leaving the group.
    pub shutdown_deadline: Duration,
}

impl Default for ProjectorConfig {
    fn default() -> Self {
        Self {
            max_flush_records: 1000,
            max_flush_bytes: 8 * 1024 * 1024,
            session_timeout: Duration::from_secs(10),
            stall_after: Duration::from_secs(30),
            sweep_interval: Duration::from_secs(60),
            retention_days: 30,
            retention_interval: Duration::from_secs(600),
            shutdown_deadline: Duration::from_secs(10),
        }
    }
}

/// Why the projector ended. Everything that passes by itself is waited for; this is what is left.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A Kafka client could not be made.
    #[error("the Kafka consumer could not be made: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// A statement failed in a way that repeating does not mend: a fault of ours or of the installation.
    #[error("the view cannot be written: {0}")]
    View(#[source] sqlx::Error),
    /// The task that writes was cut off.
    #[error("a flush was cut off: {0}")]
    Interrupted(String),
}

/// Ten years: beyond it, what keeps the events is no inbox.
pub const MAX_RETENTION_DAYS: u32 = 3650;

const RESTART_PAUSE: Duration = Duration::from_secs(1);
const LAG_INTERVAL: Duration = Duration::from_secs(1);
/// How long Kafka may take to say that a lost place is somebody else's: longer than a heartbeat, which is when a member
/// learns of it.
const LOST_PATIENCE: Duration = Duration::from_secs(3);

/// Runs until `shutdown`. `producer` writes dead letters only.
///
/// # Errors
/// When going on would be wrong; see [`Error`].
pub async fn run(
    config: ProjectorConfig,
    pool: PgPool,
    producer: Producer,
    kafka: KafkaConfig,
    health: Health,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let component = health.component(CONSUMER);
    let flusher =
        Arc::new(Flusher::live(pool.clone(), producer, kafka.topics.clone(), component.clone(), config.retention_days));
    // All end with this function, however that ends.
    let retaining = retention::run(pool.clone(), config.retention_days, config.retention_interval, shutdown.clone());
    let _retaining = AbortOnDropHandle::new(tokio::spawn(retaining));
    let sweeping = sweep::run(pool.clone(), kafka.clone(), config.sweep_interval, shutdown.clone());
    let _sweeping = AbortOnDropHandle::new(tokio::spawn(sweeping));
    let reconciling = reconcile::run(pool.clone(), config.sweep_interval, shutdown.clone());
    let _reconciling = AbortOnDropHandle::new(tokio::spawn(reconciling));
    let topics = vec![kafka.topics.events.clone(), kafka.topics.acks.clone(), kafka.topics.deliveries.clone()];
    let erasure = Erasure::new(pool.clone(), kafka.clone(), CONSUMER, topics);
    let _erasing = AbortOnDropHandle::new(tokio::spawn(erasing::run(pool.clone(), erasure, shutdown.clone())));
    while fence::reachable(&pool, &shutdown, |reason| component.down(reason)).await {
        let mut settings = ConsumerSettings::new(CONSUMER, &kafka.topics.group_materializer, &kafka.topics.events);
        settings.followed = vec![kafka.topics.acks.clone(), kafka.topics.deliveries.clone()];
        settings.session_timeout = config.session_timeout;
        settings.stall_after = config.stall_after;
        let (consumer, inflow) = FencedConsumer::start(&kafka, pool.clone(), settings)?;
        let mut run = Run {
            config: config.clone(),
            topics: kafka.topics.clone(),
            collector: Collector::default(),
            flusher: flusher.clone(),
            component: component.clone(),
            consumer,
            flushing: None,
            stopped: BTreeMap::new(),
            lost: BTreeMap::new(),
        };
        let ended = run.collect_and_flush(inflow, &shutdown).await;
        leave(run.consumer, config.shutdown_deadline / 2).await;
        match ended? {
            End::Shutdown => return Ok(()),
            End::Failed(reason) => {
                component.down(reason.clone());
                warn!(reason, "The consumer failed; it is started anew.");
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep(RESTART_PAUSE) => {}
                }
            }
        }
    }
    Ok(())
}

enum End {
    Shutdown,
    Failed(String),
}

/// One life of the consumer.
struct Run {
    config: ProjectorConfig,
    topics: TopicNames,
    collector: Collector,
    flusher: Arc<Flusher>,
    component: Component,
    consumer: FencedConsumer,
    flushing: Option<AbortOnDropHandle<Result<Outcome, Error>>>,
    /// Partitions that are not read (outside of the log, or without a leader), and why: readiness stays red while there
    /// is one.
    stopped: BTreeMap<Place, String>,
    /// Places that were claimed by somebody else although Kafka gives them to this instance, and since when.
    lost: BTreeMap<Place, Instant>,
}

impl Run {
    async fn collect_and_flush(
        &mut self,
        mut inflow: mpsc::Receiver<Inflow>,
        shutdown: &CancellationToken,
    ) -> Result<End, Error> {
        let mut lag_ticks = tokio::time::interval(LAG_INTERVAL);
        lag_ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.start_flush();
            let has_room = self.collector.has_room(self.config.max_flush_records, self.config.max_flush_bytes);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    drop(inflow);
                    return self.finish_running_flush().await.map(|()| End::Shutdown);
                }
                outcome = joined(&mut self.flushing), if self.flushing.is_some() => {
                    self.flushing = None;
                    self.settle(outcome?);
                }
                message = inflow.recv(), if has_room => match message {
                    Some(message) => if let Some(reason) = self.take(message) {
                        return Ok(End::Failed(reason));
                    },
                    None => return Ok(End::Failed("the consumer ended".to_owned())),
                },
                _ = lag_ticks.tick() => {
                    lag::report(&self.collector, self.consumer.log_ends(), &self.topics);
                    if let Some(reason) = self.to_claim_again() {
                        return Ok(End::Failed(reason));
                    }
                }
            }
        }
    }

    /// Takes one message of the consumer; a reason when the consumer is of no use any more.
    fn take(&mut self, message: Inflow) -> Option<String> {
        match message {
            Inflow::Assigned(claims) => {
                self.stopped.retain(|place, _| {
                    !claims.iter().any(|claim| *claim.topic == *place.0 && claim.partition == place.1)
                });
                self.lost.retain(|place, _| {
                    !claims.iter().any(|claim| *claim.topic == *place.0 && claim.partition == place.1)
                });
                self.collector.assign(claims);
                self.tell_health();
            }
            Inflow::Revoked(partitions) => {
                self.collector.revoke(&partitions);
                self.stopped.retain(|place, _| !partitions.contains(&place.1));
                self.lost.retain(|place, _| !partitions.contains(&place.1));
                self.tell_health();
            }
            Inflow::Records(records) => {
                let deliveries = &self.topics.deliveries;
                self.collector.collect(records, |topic| topic == deliveries);
            }
            Inflow::Stopped { topic, partition, reason } => {
                error!(%topic, partition, reason, "A partition is not read.");
                // What was read before it stopped is in hand, and nobody will read it again: it is written like
                // everything else.
                self.stopped.insert((topic, partition), reason);
                self.tell_health();
            }
            Inflow::Failed(reason) => return Some(reason),
        }
        None
    }

    fn tell_health(&self) {
        match self.stopped.first_key_value() {
            None => self.component.up(),
            Some(((topic, partition), reason)) => {
                self.component.down(format!("{topic}[{partition}] is stopped: {reason}"))
            }
        }
    }

    /// A reason to begin anew: a place was lost, and Kafka has not taken it away since, so nobody reads it. A new life
    /// of the consumer claims again what Kafka gives it.
    fn to_claim_again(&self) -> Option<String> {
        let ((topic, partition), _) = self.lost.iter().find(|(_, since)| since.elapsed() >= LOST_PATIENCE)?;
        Some(format!("{topic}[{partition}] was claimed by somebody else, and Kafka still gives it to this instance"))
    }

    /// Events and acks go first; deliveries have transactions of their own when there is nothing else.
    fn start_flush(&mut self) {
        if self.flushing.is_none()
            && let Some(batch) = self.collector.take_batch(self.config.max_flush_records, self.config.max_flush_bytes)
        {
            let flusher = self.flusher.clone();
            self.flushing = Some(AbortOnDropHandle::new(tokio::spawn(async move { flusher.flush(batch).await })));
        }
    }

    fn settle(&mut self, outcome: Outcome) {
        for (place, epoch) in &outcome.lost {
            info!(topic = %place.0, partition = place.1, "Somebody else has claimed a partition; it is left to them.");
            if self.collector.lost(place, *epoch) {
                self.lost.insert(place.clone(), Instant::now());
            }
        }
        for (place, hold) in &outcome.written {
            self.collector.committed(place, hold);
        }
        self.tell_health();
        let of_events = self.collector.holds().filter(|((topic, _), _)| **topic == *self.topics.events);
        self.consumer.commit_hint(of_events.map(|((_, partition), hold)| (*partition, hold.committed)));
    }

    /// What is collected but not yet being written is left: the next owner reads it again.
    async fn finish_running_flush(&mut self) -> Result<(), Error> {
        let Some(mut flushing) = self.flushing.take() else { return Ok(()) };
        match tokio::time::timeout(self.config.shutdown_deadline / 2, &mut flushing).await {
            Ok(outcome) => outcome.map_err(|error| Error::Interrupted(error.to_string()))?.map(drop),
            Err(_) => {
                warn!("The running flush did not end in time and is abandoned; what it wrote is rolled back.");
                flushing.abort();
                Ok(())
            }
        }
    }
}

/// Leaves the group, within `deadline` over all threads.
async fn leave(consumer: FencedConsumer, deadline: Duration) {
    if tokio::time::timeout(deadline, consumer.stop(deadline)).await.is_err() {
        warn!("The consumer did not leave the group in time.");
    }
}

async fn joined(flushing: &mut Option<AbortOnDropHandle<Result<Outcome, Error>>>) -> Result<Outcome, Error> {
    match flushing {
        Some(handle) => handle.await.map_err(|error| Error::Interrupted(error.to_string()))?,
        None => std::future::pending().await,
    }
}
