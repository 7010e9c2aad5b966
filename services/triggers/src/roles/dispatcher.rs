//! Role `dispatcher`: delivers webhooks. Over HTTP it serves only health and metrics.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use dispatcher::{DispatcherConfig, WebhookArgs};
use kafka::config::ConsumerArgs;
use kafka::producer::ProducerSettings;
use runtime::health::Health;
use runtime::lifecycle::Supervisor;
use runtime::seal::SealingKey;
use runtime::telemetry::logs;

use super::probes::{probe_kafka, probe_postgres, serve_health};
use super::schema::wait_for_schema;
use super::topics::check_topics;
use super::{Connections, RoleArgs, SealingArgs, bind};

/// Options of `triggers dispatcher`.
#[derive(Args)]
pub(crate) struct DispatcherArgs {
    /// Address for health and metrics
    #[arg(long, env = "METRICS_LISTEN", default_value = "127.0.0.1:9094", value_name = "HOST:PORT")]
    metrics_listen: SocketAddr,
    #[command(flatten)]
    role: RoleArgs,
    #[command(flatten)]
    sealing: SealingArgs,
    #[command(flatten)]
    webhooks: WebhookArgs,
    #[command(flatten)]
    consumer: ConsumerArgs,
}

/// Runs the role as its own process.
pub(crate) async fn main(args: DispatcherArgs) -> Result<()> {
    logs::init("dispatcher", args.role.process.log_format);
    let listener = bind(args.metrics_listen).await?;
    let mut config = args.webhooks.config()?;
    config.session_timeout = args.consumer.session_timeout();
    config.stall_after = args.consumer.stall_after();
    config.shutdown_deadline = args.role.process.shutdown_deadline();
    let delivery = DeliverySettings { sealing: args.sealing.load_existing()?, config };
    let connections = Connections::from_args(&args.role)?;
    check_topics(&args.role.kafka, &connections.kafka).await?;
    let mut supervisor = args.role.supervisor(&Health::new());
    // Registered before HTTP is served: a role is not ready until its consumer works.
    drop(supervisor.health().component(dispatcher::CONSUMER));
    // A consumer without records sends no query, so it would not notice that PostgreSQL does not answer.
    let postgres = supervisor.health().component("postgres");
    probe_postgres(&mut supervisor, connections.pool.clone(), postgres);
    serve_health(&mut supervisor, listener, "dispatcher", args.role.process.prometheus_enabled);
    wait_for_schema(&supervisor, &connections.pool).await?;
    start(&mut supervisor, connections, delivery)?;
    supervisor.run(args.role.process.shutdown_deadline()).await
}

/// What the dispatcher needs besides the connections.
pub(crate) struct DeliverySettings {
    sealing: SealingKey,
    config: DispatcherConfig,
}

impl DeliverySettings {
    /// For `triggers up`: webhooks may be sent to this machine.
    pub(crate) fn local(sealing: SealingKey, shutdown_deadline: Duration) -> Self {
        let config = DispatcherConfig { shutdown_deadline, ..DispatcherConfig::default() };
        Self { sealing, config: config.on_this_machine() }
    }
}

/// Starts the dispatcher under `supervisor`.
pub(crate) fn start(supervisor: &mut Supervisor, connections: Connections, delivery: DeliverySettings) -> Result<()> {
    let producer = connections.producer(ProducerSettings::default())?;
    let Connections { kafka, pool } = connections;
    probe_kafka(supervisor, &producer, vec![kafka.topics.deliveries.clone()]);
    Ok(dispatcher::start(supervisor, delivery.config, pool, producer, kafka, delivery.sealing)?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        sealing: SealingArgs,
    }

    #[test]
    fn dispatcher_does_not_create_a_sealing_key_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealing.key");
        let cli = Cli::parse_from(["triggers".as_ref(), "--sealing-key-file".as_ref(), path.as_os_str()]);
        let error = format!("{:#}", cli.sealing.load_existing().unwrap_err());
        assert!(error.contains("triggers ingest") && error.contains("sealing.key") && !path.exists(), "{error}");
        SealingKey::load_or_create(&path).unwrap();
        cli.sealing.load_existing().unwrap();
    }
}
