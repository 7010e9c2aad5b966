//! The dispatcher from its start to its end: puts the dependencies together, and lets go in order.

use std::sync::Arc;
use std::time::Duration;

use kafka::KafkaConfig;
use kafka::consumer::{ConsumerSettings, Ended, Runner};
use kafka::fence::PositionsPoller;
use kafka::producer::Producer;
use runtime::health::Component;
use runtime::lifecycle::Supervisor;
use runtime::seal::SealingKey;
use sqlx::postgres::PgPool;
use tenancy::erasure::Erasure;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::attempt::client::{ClientError, WebhookClient};
use crate::attempt::in_flight::Attempter;
use crate::attempt::reporting::Reporter;
use crate::attempt::slots::Slots;
use crate::config::DispatcherConfig;
use crate::dependencies::Dependencies;
use crate::endpoints::cache::EndpointCache;
use crate::error::DispatchError;
use crate::log::duplicates::MATERIALIZER;
use crate::log::worker::LogWorker;
use crate::retry::worker;
use crate::retry::worker::RetryWorker;
use crate::{CONSUMER, erasing};

const CONSUMER_STOP: Duration = Duration::from_secs(5);

/// Starts the dispatcher under `supervisor`, and with it the tasks "schedule erasure", "endpoint watch" and "retries".
/// The component `dispatcher` is up while it delivers.
///
/// # Errors
/// When no requests can be made.
pub fn start(
    supervisor: &mut Supervisor,
    config: DispatcherConfig,
    pool: PgPool,
    producer: Producer,
    kafka: KafkaConfig,
    sealing: SealingKey,
) -> Result<(), ClientError> {
    let shutdown = supervisor.shutdown();
    let component = supervisor.health().component(CONSUMER);
    let erasure = Erasure::new(pool.clone(), kafka.clone(), CONSUMER, vec![kafka.topics.events.clone()]);
    // Also while nothing is sent.
    let erasing = erasing::run(pool.clone(), erasure, shutdown.clone());
    supervisor.spawn("schedule erasure", async move {
        erasing.await;
        Ok(())
    });
    if !config.delivers {
        info!("Webhook delivery is switched off; positions stay where they are.");
        component.report_healthy();
        return Ok(());
    }
    let client = WebhookClient::new(Arc::new(config.egress.clone()))?;
    let reporter = Reporter::new(producer, &kafka.topics.deliveries);
    let dependencies = Dependencies {
        pool: pool.clone(),
        topic: Arc::from(kafka.topics.events.as_str()),
        endpoint_cache: EndpointCache::new(pool.clone(), sealing, config.max_in_flight_per_endpoint),
        attempter: Attempter::new(client, reporter.clone(), pool.clone()),
        reporter,
        slots: Slots::default(),
        view: PositionsPoller::new(pool.clone(), MATERIALIZER),
        scheduled: Arc::new(Notify::new()),
    };
    let (watching, stopping) = (dependencies.endpoint_cache.clone().watch(), shutdown.clone());
    supervisor.spawn("endpoint watch", async move {
        stopping.run_until_cancelled(watching).await;
        Ok(())
    });
    // In a task of its own, so that neither waits for the other.
    let retrying =
        worker::run(RetryWorker::new(&dependencies, config.max_retries_in_flight, config.drain), shutdown.clone());
    supervisor.spawn("retries", async move {
        retrying.await;
        Ok(())
    });
    supervisor.spawn(CONSUMER, async move {
        let outcome = deliver(&config, &dependencies, kafka, &component, shutdown).await;
        component.report_unhealthy("stopped");
        Ok(outcome?)
    });
    Ok(())
}

/// Delivers until the shutdown, then finishes what it can.
async fn deliver(
    config: &DispatcherConfig,
    dependencies: &Dependencies,
    kafka: KafkaConfig,
    component: &Component,
    shutdown: CancellationToken,
) -> Result<(), DispatchError> {
    let mut settings = ConsumerSettings::new(CONSUMER, &kafka.topics.group_dispatcher, &kafka.topics.events);
    // A webhook takes longer than this anyway, and fewer rounds leave more of the machine to everything else.
    settings.fetch_wait = Duration::from_millis(10);
    settings.session_timeout = config.session_timeout;
    settings.stall_after = config.stall_after;
    let (pool, component) = (dependencies.pool.clone(), component.clone());
    let runner = Runner { kafka, pool, settings, component, shutdown, stop_within: CONSUMER_STOP };
    let mut pass = LogWorker::new(config.clone(), dependencies.clone());
    while let Some(mut session) = runner.start().await? {
        let ended = pass.run(&mut session).await?;
        // What is open goes to the schedule while the partitions are still ours; only then are they given up.
        pass.let_go().await?;
        if let Ended::Restart(reason) = ended {
            runner.restart(session, reason).await;
        } else {
            let (drained, ()) = tokio::join!(pass.drain(), session.stop());
            return drained;
        }
    }
    pass.drain().await
}
