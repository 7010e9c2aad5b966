//! From the log to the tables: one loop that collects records while its previous transaction runs, and writes them
//! together with the positions they were read up to.
//!
//! Lives here: what a record becomes in the view, which of two duplicates is the original, and which
//! record is a dead letter. Does not live here: reading Kafka and the fence (`platform`), what a record says
//! (`schemas`), writing dead letters (`crate::dead_letters`), and reading the view (`crate::inbox`).

pub(crate) mod batch;
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

use std::sync::Arc;
use std::time::Duration;

use platform::health::Component;
use platform::kafka::KafkaConfig;
use platform::kafka::consumer::{ConsumerSettings, Ended, Inflow, Runner, Session, finished};
use platform::kafka::producer::Producer;
use platform::lifecycle::Supervisor;
use schemas::topics::TopicNames;
use sqlx::postgres::PgPool;
use tenancy::erasure::Erasure;
use tokio::task::JoinError;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use batch::Collector;
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

const LAG_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the projector under `supervisor`, and with it the tasks "view retention", "view sweep" and "view erasure".
/// `producer` writes dead letters only.
pub fn start(
    supervisor: &mut Supervisor,
    config: ProjectorConfig,
    pool: PgPool,
    producer: Producer,
    kafka: KafkaConfig,
) {
    let shutdown = supervisor.shutdown();
    let retaining = retention::run(pool.clone(), config.retention_days, config.retention_interval, shutdown.clone());
    supervisor.spawn("view retention", async move {
        retaining.await;
        Ok(())
    });
    let sweeping = sweep::run(pool.clone(), kafka.clone(), config.sweep_interval, shutdown.clone());
    supervisor.spawn("view sweep", async move {
        sweeping.await;
        Ok(())
    });
    let reconciling = reconcile::run(pool.clone(), config.sweep_interval, shutdown.clone());
    supervisor.spawn("reconcile", async move {
        reconciling.await;
        Ok(())
    });
    let topics = vec![kafka.topics.events.clone(), kafka.topics.acks.clone(), kafka.topics.deliveries.clone()];
    let erasure = Erasure::new(pool.clone(), kafka.clone(), CONSUMER, topics);
    let erasing = erasing::run(pool.clone(), erasure, shutdown.clone());
    supervisor.spawn("view erasure", async move {
        erasing.await;
        Ok(())
    });
    let component = supervisor.health().component(CONSUMER);
    supervisor.spawn(CONSUMER, async move { Ok(run(config, pool, producer, kafka, component, shutdown).await?) });
}

/// Runs until `shutdown`.
///
/// # Errors
/// When going on would be wrong; see [`Error`].
async fn run(
    config: ProjectorConfig,
    pool: PgPool,
    producer: Producer,
    kafka: KafkaConfig,
    component: Component,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let flusher =
        Arc::new(Flusher::live(pool.clone(), producer, kafka.topics.clone(), component.clone(), config.retention_days));
    let topics = kafka.topics.clone();
    let mut settings = ConsumerSettings::new(CONSUMER, &topics.group_materializer, &topics.events);
    settings.followed = vec![topics.acks.clone(), topics.deliveries.clone()];
    settings.session_timeout = config.session_timeout;
    settings.stall_after = config.stall_after;
    let stop_within = config.shutdown_deadline / 2;
    let runner = Runner { kafka, pool, settings, component, shutdown, stop_within };
    while let Some(mut session) = runner.start().await? {
        let mut run = Run {
            config: config.clone(),
            topics: topics.clone(),
            collector: Collector::default(),
            flusher: flusher.clone(),
            flushing: None,
        };
        match run.collect_and_flush(&mut session).await {
            Ok(Ended::Restart(reason)) => runner.restart(session, reason).await,
            ended => {
                session.stop().await;
                return ended.map(drop);
            }
        }
    }
    Ok(())
}

/// One session of the consumer.
struct Run {
    config: ProjectorConfig,
    topics: TopicNames,
    collector: Collector,
    flusher: Arc<Flusher>,
    flushing: Option<AbortOnDropHandle<Result<Outcome, Error>>>,
}

impl Run {
    async fn collect_and_flush(&mut self, session: &mut Session) -> Result<Ended, Error> {
        let mut lag_ticks = tokio::time::interval(LAG_INTERVAL);
        lag_ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.start_flush();
            let has_room = self.collector.has_room(self.config.max_flush_records, self.config.max_flush_bytes);
            tokio::select! {
                biased;
                outcome = finished(&mut self.flushing) => self.settle(joined(outcome)?, session),
                event = session.next(has_room) => match event {
                    Ok(event) => self.take(event, session),
                    Err(Ended::Shutdown) => return self.finish_running_flush().await.map(|()| Ended::Shutdown),
                    Err(ended) => return Ok(ended),
                },
                _ = lag_ticks.tick() => lag::report(&self.collector, session, &self.topics),
            }
        }
    }

    fn take(&mut self, event: Inflow, session: &Session) {
        match event {
            Inflow::Assigned(claims) => {
                self.collector.assign(claims);
                session.report_health(None);
            }
            Inflow::Revoked(partitions) => {
                self.collector.revoke(&partitions);
                session.report_health(None);
            }
            Inflow::Records(records) => {
                let deliveries = &self.topics.deliveries;
                self.collector.collect(records, |topic| topic == deliveries);
            }
            // What was read before it stopped is in hand, and nobody will read it again: it is written like everything
            // else.
            Inflow::Stopped { .. } | Inflow::Failed(_) => {}
        }
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

    fn settle(&mut self, outcome: Outcome, session: &mut Session) {
        for (place, epoch) in &outcome.lost {
            if self.collector.lost(place, *epoch) {
                session.lost(&place.0, place.1);
            }
        }
        for (place, hold) in &outcome.written {
            self.collector.committed(place, hold);
        }
        session.report_health(None);
        let of_events = self.collector.holds().filter(|((topic, _), _)| **topic == *self.topics.events);
        session.commit_hint(of_events.map(|((_, partition), hold)| (*partition, hold.committed)));
    }

    /// What is collected but not yet being written is left: the next owner reads it again.
    async fn finish_running_flush(&mut self) -> Result<(), Error> {
        let Some(mut flushing) = self.flushing.take() else { return Ok(()) };
        match tokio::time::timeout(self.config.shutdown_deadline / 2, &mut flushing).await {
            Ok(outcome) => joined(outcome).map(drop),
            Err(_) => {
                warn!("The running flush did not end in time and is abandoned; what it wrote is rolled back.");
                flushing.abort();
                Ok(())
            }
        }
    }
}

fn joined(outcome: Result<Result<Outcome, Error>, JoinError>) -> Result<Outcome, Error> {
    outcome.map_err(|error| Error::Interrupted(error.to_string()))?
}
