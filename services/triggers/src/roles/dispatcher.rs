//! Role `dispatcher`: delivers webhooks; serves health and metrics only.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use dispatcher::{DispatcherConfig, WebhookArgs};
use platform::config::ConsumerArgs;
use platform::health::Health;
use platform::kafka::producer::ProducerSettings;
use platform::lifecycle::Supervisor;
use platform::seal::SealingKey;
use platform::telemetry::logs;

use super::probes::{probe_kafka, probe_postgres, serve_running};
use super::topics::check_topics;
use super::{Connections, SealingArgs, SharedArgs, bind};

/// Flags of `triggers dispatcher`.
#[derive(Args)]
pub(crate) struct DispatcherArgs {
    /// Where health and metrics are served
    #[arg(long, env = "METRICS_LISTEN", default_value = "127.0.0.1:9094", value_name = "HOST:PORT")]
    metrics_listen: SocketAddr,
    #[command(flatten)]
    shared: SharedArgs,
    #[command(flatten)]
    sealing: SealingArgs,
    #[command(flatten)]
    webhooks: WebhookArgs,
    #[command(flatten)]
    consumer: ConsumerArgs,
}

/// Runs the role in a process of its own.
pub(crate) async fn main(args: DispatcherArgs) -> Result<()> {
    logs::init("dispatcher", args.shared.process.log_format);
    let listener = bind(args.metrics_listen).await?;
    let mut config = args.webhooks.config()?;
    config.session_timeout = args.consumer.session_timeout();
    config.stall_after = args.consumer.stall_after();
    let delivery = Delivery { sealing: args.sealing.load_existing()?, config };
    let connections = Connections::from_args(&args.shared)?;
    check_topics(&args.shared.kafka, &connections.kafka).await?;
    let mut supervisor = args.shared.supervisor(&Health::new());
    // Known before the first question is answered: a role that has reached nothing yet is not ready.
    drop(supervisor.health().component(dispatcher::CONSUMER));
    // A consumer without records asks the database for nothing, and would look well while it is lost.
    let postgres = supervisor.health().component("postgres");
    probe_postgres(&mut supervisor, connections.pool.clone(), postgres);
    serve_running(&mut supervisor, listener, "dispatcher");
    start(&mut supervisor, connections, delivery)?;
    supervisor.run(args.shared.process.shutdown_deadline()).await
}

/// What delivering needs beyond the connections.
pub(crate) struct Delivery {
    sealing: SealingKey,
    config: DispatcherConfig,
}

impl Delivery {
    /// For `triggers up`: receivers on this machine may be reached.
    pub(crate) fn local(sealing: SealingKey) -> Self {
        Self { sealing, config: DispatcherConfig::default().on_this_machine() }
    }
}

/// Starts the dispatcher under `supervisor`.
pub(crate) fn start(supervisor: &mut Supervisor, connections: Connections, delivery: Delivery) -> Result<()> {
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
    fn this_role_reads_a_sealing_key_file_and_makes_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealing.key");
        let cli = Cli::parse_from(["triggers".as_ref(), "--sealing-key-file".as_ref(), path.as_os_str()]);
        let error = format!("{:#}", cli.sealing.load_existing().unwrap_err());
        assert!(error.contains("triggers ingest") && error.contains("sealing.key") && !path.exists(), "{error}");
        SealingKey::load_or_create(&path).unwrap();
        cli.sealing.load_existing().unwrap();
    }
}
