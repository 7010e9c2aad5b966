//! Writes the log into the view. One loop collects records while the previous transaction runs. Each transaction writes
//! records and moves the positions past them.
//!
//! Lives here: what a record becomes in the view, which of two duplicates is the original, and which record is a dead
//! letter. Does not live here: reading Kafka and the fence (`kafka`), the format of records (`schemas`), writing
//! dead letters (`crate::dead_letters`), and reading the view (`crate::inbox`).

mod applied_until;
pub(crate) mod batch;
#[cfg(feature = "bench")]
pub mod bench;
mod config;
mod decode;
mod duplicates;
mod erasing;
mod error;
mod event_row;
pub(crate) mod flush;
pub(crate) mod generation;
mod lag;
mod organizations;
mod pause;
pub(crate) mod reconcile;
mod retention;
mod sweep;
mod time_partitions;

use std::sync::Arc;
use std::time::Duration;

use kafka::KafkaConfig;
use kafka::consumer::{ConsumerEvent, ConsumerSettings, Runner, Session, SessionEnd, finished};
use kafka::producer::Producer;
use runtime::health::Component;
use runtime::lifecycle::Supervisor;
use schemas::topics::TopicNames;
use sqlx::postgres::PgPool;
use tenancy::erasure::Erasure;
use tokio::task::JoinError;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use batch::Collector;
use flush::{FlushOutcome, Flusher};

pub use config::{CONSUMER, MAX_RETENTION_DAYS, ProjectorConfig};
pub use error::ProjectorError;

const LAG_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the projector under `supervisor`, and the tasks "view retention", "view sweep", "reconcile" and "view
/// erasure". `producer` writes dead letters only.
pub fn start(
    supervisor: &mut Supervisor,
    config: ProjectorConfig,
    pool: PgPool,
    producer: Producer,
    kafka: KafkaConfig,
) {
    let shutdown = supervisor.shutdown();
    let retaining = retention::run(pool.clone(), config.retention_days, config.retention_interval, shutdown.clone());
    spawn(supervisor, "view retention", retaining);
    let sweeping = sweep::run(pool.clone(), kafka.clone(), config.sweep_interval, shutdown.clone());
    spawn(supervisor, "view sweep", sweeping);
    let reconciling = reconcile::run(pool.clone(), config.sweep_interval, shutdown.clone());
    spawn(supervisor, "reconcile", reconciling);
    let topics = vec![kafka.topics.events.clone(), kafka.topics.acks.clone(), kafka.topics.deliveries.clone()];
    let erasure = Erasure::new(pool.clone(), kafka.clone(), CONSUMER, topics);
    let erasing = erasing::run(pool.clone(), erasure, shutdown.clone());
    spawn(supervisor, "view erasure", erasing);
    let component = supervisor.health().component(CONSUMER);
    supervisor.spawn(CONSUMER, async move { Ok(run(config, pool, producer, kafka, component, shutdown).await?) });
}

fn spawn(supervisor: &mut Supervisor, name: &str, task: impl Future<Output = ()> + Send + 'static) {
    supervisor.spawn(name, async move {
        task.await;
        Ok(())
    });
}

/// Runs until `shutdown`.
///
/// # Errors
/// See [`ProjectorError`].
async fn run(
    config: ProjectorConfig,
    pool: PgPool,
    producer: Producer,
    kafka: KafkaConfig,
    component: Component,
    shutdown: CancellationToken,
) -> Result<(), ProjectorError> {
    let flusher =
        Arc::new(Flusher::live(pool.clone(), producer, kafka.topics.clone(), component.clone(), config.retention_days));
    let topics = kafka.topics.clone();
    let mut settings = ConsumerSettings::new(CONSUMER, &topics.group_materializer, &topics.events);
    settings.companion_topics = vec![topics.acks.clone(), topics.deliveries.clone()];
    settings.session_timeout = config.session_timeout;
    settings.stall_after = config.stall_after;
    let stop_within = config.shutdown_deadline / 2;
    let runner = Runner { kafka, pool, settings, component, shutdown, stop_within };
    while let Some(mut session) = runner.start().await? {
        let mut session_loop = SessionLoop {
            config: config.clone(),
            topics: topics.clone(),
            collector: Collector::default(),
            flusher: flusher.clone(),
            flushing: None,
        };
        match session_loop.collect_and_flush(&mut session).await {
            Ok(SessionEnd::Restart(reason)) => runner.restart(session, reason).await,
            Ok(SessionEnd::Shutdown) => {
                // At the same time, so that a transaction that hangs does not keep the partitions from the next owner,
                // whose claim waits for the transaction or fences it.
                let (flushed, ()) = tokio::join!(session_loop.finish_running_flush(), session.stop());
                return flushed;
            }
            Err(error) => {
                session.stop().await;
                return Err(error);
            }
        }
    }
    Ok(())
}

/// The loop of one consumer session.
struct SessionLoop {
    config: ProjectorConfig,
    topics: TopicNames,
    collector: Collector,
    flusher: Arc<Flusher>,
    flushing: Option<AbortOnDropHandle<Result<FlushOutcome, ProjectorError>>>,
}

impl SessionLoop {
    async fn collect_and_flush(&mut self, session: &mut Session) -> Result<SessionEnd, ProjectorError> {
        let mut lag_ticks = tokio::time::interval(LAG_INTERVAL);
        lag_ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.start_flush();
            let has_room = self.collector.has_room(self.config.max_flush_records, self.config.max_flush_bytes);
            tokio::select! {
                biased;
                outcome = finished(&mut self.flushing) => self.apply_outcome(joined(outcome)?, session),
                event = session.next(has_room) => match event {
                    Ok(event) => self.handle(event, session),
                    Err(ended) => return Ok(ended),
                },
                _ = lag_ticks.tick() => lag::report(&self.collector, session, &self.topics),
            }
        }
    }

    fn handle(&mut self, event: ConsumerEvent, session: &Session) {
        match event {
            ConsumerEvent::Assigned(claims) => {
                self.collector.assign(claims);
                session.report_health(None);
            }
            ConsumerEvent::Revoked(partitions) => {
                self.collector.revoke(&partitions);
                session.report_health(None);
            }
            ConsumerEvent::Records(records) => {
                let deliveries = &self.topics.deliveries;
                self.collector.collect(records, |topic| topic == deliveries);
            }
            // Records that were read before the partition stopped are collected. They are written like all others.
            ConsumerEvent::Stopped { .. } | ConsumerEvent::Failed(_) => {}
        }
    }

    /// Starts the next transaction unless one is running.
    fn start_flush(&mut self) {
        if self.flushing.is_none()
            && let Some(batch) = self.collector.take_batch(self.config.max_flush_records, self.config.max_flush_bytes)
        {
            let flusher = self.flusher.clone();
            self.flushing = Some(AbortOnDropHandle::new(tokio::spawn(async move { flusher.flush(batch).await })));
        }
    }

    fn apply_outcome(&mut self, outcome: FlushOutcome, session: &mut Session) {
        for (key, epoch) in &outcome.fenced {
            if self.collector.release_fenced(key, *epoch) {
                session.report_fenced(&key.0, key.1);
            }
        }
        for (key, written) in &outcome.written {
            self.collector.mark_committed(key, written);
        }
        session.report_health(None);
        let of_events = self.collector.owned().filter(|((topic, _), _)| **topic == *self.topics.events);
        session.commit_hint(of_events.map(|((_, partition), owned)| (*partition, owned.committed)));
    }

    /// Drops the records that are collected and not yet being written: the next owner reads them again.
    async fn finish_running_flush(&mut self) -> Result<(), ProjectorError> {
        let Some(mut flushing) = self.flushing.take() else { return Ok(()) };
        let deadline = self.config.shutdown_deadline;
        match tokio::time::timeout(deadline, &mut flushing).await {
            Ok(outcome) => joined(outcome).map(drop),
            Err(_) => {
                let waited_ms = deadline.as_millis() as u64;
                warn!(waited_ms, "Flush exceeded the shutdown deadline; aborting it and rolling its transaction back.");
                flushing.abort();
                Err(ProjectorError::FlushNotFinished { waited: deadline })
            }
        }
    }
}

fn joined(outcome: Result<Result<FlushOutcome, ProjectorError>, JoinError>) -> Result<FlushOutcome, ProjectorError> {
    outcome.map_err(|error| ProjectorError::Interrupted(error.to_string()))?
}
