//! Starts the tasks of the dispatcher and shuts them down in order.

use std::sync::Arc;
use std::time::Duration;

use kafka::KafkaConfig;
use kafka::consumer::{ConsumerSettings, Runner, SessionEnd};
use kafka::fence::PositionsPoller;
use kafka::producer::Producer;
use runtime::health::Component;
use runtime::lifecycle::Supervisor;
use runtime::seal::SealingKey;
use schemas::topics::MATERIALIZER;
use sqlx::postgres::PgPool;
use tenancy::erasure::Erasure;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::acks;
use crate::attempt::attempter::Attempter;
use crate::attempt::client::WebhookClient;
use crate::attempt::connector::ClientError;
use crate::attempt::reporting::Reporter;
use crate::attempt::slots::conditions::{self, adopt_stored};
use crate::attempt::slots::{PoolSizes, Slots};
use crate::batch::bytes::BatchBytes;
use crate::config::{CONSUMER, DispatcherConfig};
use crate::dependencies::Dependencies;
use crate::endpoints::cache::EndpointCache;
use crate::endpoints::purge;
use crate::erasing;
use crate::error::DispatchError;
use crate::log::worker::LogWorker;
use crate::replays::Replayer;
use crate::retry::worker::RetryWorker;

/// Starts the tasks `dispatcher`, `schedule erasure`, `endpoint purge`, `endpoint watch`, `retries`,
/// `endpoint conditions`, `replays` and `acknowledgements` under `supervisor`. The component `dispatcher` is healthy
/// while webhooks are delivered.
///
/// # Errors
/// If the HTTP client cannot be created.
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
    // Erasing and purging run even if delivery is disabled.
    let erasing = erasing::run(pool.clone(), erasure, shutdown.clone());
    supervisor.spawn("schedule erasure", async move {
        erasing.await;
        Ok(())
    });
    let purging = purge::run(pool.clone(), shutdown.clone());
    supervisor.spawn("endpoint purge", async move {
        purging.await;
        Ok(())
    });
    if !config.delivers {
        info!("Webhook delivery is disabled; positions do not move.");
        component.report_healthy();
        return Ok(());
    }
    let client = WebhookClient::new(Arc::new(config.egress.clone()), &config.name_servers)?;
    let reporter = Reporter::new(producer.clone(), &kafka.topics.deliveries);
    let dependencies = Dependencies {
        pool: pool.clone(),
        topic: Arc::from(kafka.topics.events.as_str()),
        endpoint_cache: EndpointCache::new(pool.clone(), sealing, config.max_in_flight_per_endpoint),
        attempter: Attempter::new(client, reporter.clone(), pool.clone()),
        reporter,
        slots: Slots::new(PoolSizes { first_attempts: config.max_in_flight, retries: config.max_retries_in_flight }),
        batch_bytes: BatchBytes::new(config.max_batch_bytes),
        limits: config.open_limits,
        view_positions: PositionsPoller::new(pool.clone(), MATERIALIZER),
        rows_added: Arc::new(Notify::new()),
    };
    let (watching, stop) = (dependencies.endpoint_cache.clone().watch(), shutdown.clone());
    supervisor.spawn("endpoint watch", async move {
        stop.run_until_cancelled(watching).await;
        Ok(())
    });
    // A separate task, so that first attempts and retries do not wait for each other.
    let retry_worker = RetryWorker::new(&dependencies, &config);
    let (retrying, adopting) = (retry_worker.run(shutdown.clone()), dependencies.clone());
    let stop_adopting = shutdown.clone();
    supervisor.spawn("retries", async move {
        stop_adopting.run_until_cancelled(adopt_stored(&adopting.slots, &adopting.pool)).await;
        retrying.await;
        Ok(())
    });
    let sharing = conditions::run(dependencies.slots.clone(), pool.clone(), config.disable_after, shutdown.clone());
    supervisor.spawn("endpoint conditions", async move {
        sharing.await;
        Ok(())
    });
    let acknowledging = acks::run(pool.clone(), producer, kafka.topics.acks.clone(), shutdown.clone());
    supervisor.spawn("acknowledgements", async move {
        acknowledging.await;
        Ok(())
    });
    let replaying = Replayer::new(pool, kafka.clone(), config.open_limits).run(shutdown.clone());
    supervisor.spawn("replays", async move {
        replaying.await;
        Ok(())
    });
    supervisor.spawn(CONSUMER, async move {
        let outcome = deliver(&config, &dependencies, kafka, &component, shutdown).await;
        component.report_unhealthy("stopped");
        Ok(outcome?)
    });
    Ok(())
}

/// Delivers until the shutdown, then waits for the attempts in flight.
async fn deliver(
    config: &DispatcherConfig,
    dependencies: &Dependencies,
    kafka: KafkaConfig,
    component: &Component,
    shutdown: CancellationToken,
) -> Result<(), DispatchError> {
    let mut settings = ConsumerSettings::new(CONSUMER, &kafka.topics.group_dispatcher, &kafka.topics.events);
    // A webhook takes longer than this anyway, and fewer fetches save CPU.
    settings.fetch_pause = Duration::from_millis(10);
    settings.session_timeout = config.session_timeout;
    settings.stall_after = config.stall_after;
    let (pool, component, stop) = (dependencies.pool.clone(), component.clone(), shutdown.clone());
    let stop_within = config.shutdown_deadline / 2;
    let runner = Runner { kafka, pool, settings, component, shutdown, stop_within };
    stop.run_until_cancelled(adopt_stored(&dependencies.slots, &dependencies.pool)).await;
    let mut log_worker = LogWorker::new(config.clone(), dependencies.clone());
    while let Some(mut session) = runner.start().await? {
        let ended = log_worker.run(&mut session).await?;
        // Open deliveries are written to the schedule while the partitions are still claimed.
        log_worker.release_partitions().await?;
        if let SessionEnd::Restart(reason) = ended {
            runner.restart(session, reason).await;
        } else {
            let (drained, ()) = tokio::join!(log_worker.drain(), session.stop());
            return drained;
        }
    }
    log_worker.drain().await
}
