//! The dispatcher from its start to its end: puts the parts together, starts the consumer anew when it fails, and lets
//! go in order.

use std::sync::Arc;
use std::time::Duration;

use platform::fence::{self, PositionsPoller};
use platform::health::{Component, Health};
use platform::kafka::KafkaConfig;
use platform::kafka::consumer::{ConsumerSettings, FencedConsumer};
use platform::kafka::producer::Producer;
use platform::seal::SealingKey;
use sqlx::postgres::PgPool;
use tenancy::erasure::Erasure;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use crate::attempt::{ClientError, WebhookClient};
use crate::commit::CommitError;
use crate::config::DispatcherConfig;
use crate::directory::Directory;
use crate::flight::Pilot;
use crate::pass::{Ended, Parts, Pass};
use crate::reporting::Reporter;
use crate::retries::Retries;
use crate::slots::Slots;
use crate::verdicts::MATERIALIZER;
use crate::{CONSUMER, erasing, retries};

const RESTART_DELAY: Duration = Duration::from_secs(1);
const CONSUMER_STOP: Duration = Duration::from_secs(5);

/// Why the dispatcher ended. Fatal: everything that passes by itself is waited for.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// No requests can be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The consumer cannot be made.
    #[error("the consumer could not be made: {0}")]
    Consumer(#[from] rdkafka::error::KafkaError),
    /// The schedule cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A part of it panicked.
    #[error("a task of the dispatcher ended unexpectedly: {0}")]
    Panicked(#[from] tokio::task::JoinError),
}

/// Delivers until `shutdown`, then finishes what it can. The component `dispatcher` of `health` is up while it does.
///
/// # Errors
/// See [`DispatchError`].
pub async fn run(
    config: DispatcherConfig,
    pool: PgPool,
    producer: Producer,
    kafka: KafkaConfig,
    sealing: SealingKey,
    health: Health,
    shutdown: CancellationToken,
) -> Result<(), DispatchError> {
    let component = health.component(CONSUMER);
    let erasure = Erasure::new(pool.clone(), kafka.clone(), CONSUMER, vec![kafka.topics.events.clone()]);
    // Ends with this function, however that ends. Also while nothing is sent.
    let _erasing = AbortOnDropHandle::new(tokio::spawn(erasing::run(pool.clone(), erasure, shutdown.clone())));
    if !config.delivers {
        info!("Webhook delivery is switched off; positions stay where they are.");
        component.up();
        shutdown.cancelled().await;
        return Ok(());
    }
    let client = WebhookClient::new(Arc::new(config.egress.clone()))?;
    let reporter = Reporter::new(producer, &kafka.topics.deliveries);
    let parts = Parts {
        pool: pool.clone(),
        topic: Arc::from(kafka.topics.events.as_str()),
        directory: Directory::new(pool.clone(), sealing, config.max_in_flight_per_endpoint),
        pilot: Pilot::new(client, reporter.clone(), pool.clone()),
        reporter,
        slots: Slots::default(),
        view: PositionsPoller::new(pool.clone(), MATERIALIZER),
        scheduled: Arc::new(Notify::new()),
    };
    let _watching = AbortOnDropHandle::new(tokio::spawn(parts.directory.clone().watch()));
    let retrying = Retries::new(&parts, config.max_retries_in_flight, config.drain);
    // In a task of its own, so that neither waits for the other; it ends with this one, however that ends.
    let retrying = AbortOnDropHandle::new(tokio::spawn(retries::run(retrying, shutdown.clone())));
    let outcome = deliver(&config, &parts, &kafka, &component, &shutdown).await;
    component.down("stopped");
    outcome?;
    Ok(retrying.await?)
}

async fn deliver(
    config: &DispatcherConfig,
    parts: &Parts,
    kafka: &KafkaConfig,
    component: &Component,
    shutdown: &CancellationToken,
) -> Result<(), DispatchError> {
    let mut settings = ConsumerSettings::new(CONSUMER, &kafka.topics.group_dispatcher, &kafka.topics.events);
    // A webhook takes longer than this anyway, and fewer rounds leave more of the machine to everything else.
    settings.fetch_wait = Duration::from_millis(10);
    settings.session_timeout = config.session_timeout;
    settings.stall_after = config.stall_after;
    let mut pass = Pass::new(config.clone(), parts.clone(), component.clone());
    while fence::reachable(&parts.pool, shutdown, |reason| component.down(reason)).await {
        let (consumer, inflow) = FencedConsumer::start(kafka, parts.pool.clone(), settings.clone())?;
        let ended = pass.run(&consumer, inflow, shutdown).await?;
        // What is open goes to the schedule while the partitions are still ours; only then are they given up.
        pass.let_go().await?;
        if let Ended::Restart(reason) = ended {
            component.down(reason);
            consumer.stop(CONSUMER_STOP).await;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(RESTART_DELAY) => {}
            }
        } else {
            let (drained, ()) = tokio::join!(pass.drain(), consumer.stop(CONSUMER_STOP));
            return drained;
        }
    }
    pass.drain().await
}
