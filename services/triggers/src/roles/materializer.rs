//! Role `materializer`: builds the inbox from the log; serves health and metrics only.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use materializer::projector::{self, MAX_RETENTION_DAYS, ProjectorConfig};
use platform::config::ConsumerArgs;
use platform::health::Health;
use platform::kafka::producer::ProducerSettings;
use platform::lifecycle::Supervisor;
use platform::telemetry::logs;

use super::probes::{probe_kafka, probe_postgres, serve_running};
use super::topics::check_topics;
use super::{Connections, SharedArgs, bind};

/// Flags of `triggers materializer`.
#[derive(Args)]
pub(crate) struct MaterializerArgs {
    /// Where health and metrics are served
    #[arg(long, env = "METRICS_LISTEN", default_value = "127.0.0.1:9091", value_name = "HOST:PORT")]
    metrics_listen: SocketAddr,
    #[command(flatten)]
    view: ViewArgs,
    #[command(flatten)]
    shared: SharedArgs,
    #[command(flatten)]
    consumer: ConsumerArgs,
}

/// What the view keeps.
#[derive(Args)]
pub(crate) struct ViewArgs {
    /// For how many days an event stays in the inbox at least, acknowledged or not
    #[arg(long, env = "VIEW_RETENTION_DAYS", default_value_t = 30, value_name = "DAYS",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RETENTION_DAYS)))]
    view_retention_days: u32,
}

impl ViewArgs {
    pub(crate) fn projector(&self) -> ProjectorConfig {
        ProjectorConfig { retention_days: self.view_retention_days, ..ProjectorConfig::default() }
    }
}

/// Runs the role in a process of its own.
pub(crate) async fn main(args: MaterializerArgs) -> Result<()> {
    logs::init("materializer", args.shared.process.log_format);
    let listener = bind(args.metrics_listen).await?;
    let connections = Connections::from_args(&args.shared)?;
    check_topics(&args.shared.kafka, &connections.kafka).await?;
    let mut supervisor = args.shared.supervisor(&Health::new());
    // Known before the first question is answered: a role that has reached nothing yet is not ready.
    drop(supervisor.health().component(projector::CONSUMER));
    // A consumer without records asks the database for nothing, and would look well while it is lost.
    let postgres = supervisor.health().component("postgres");
    probe_postgres(&mut supervisor, connections.pool.clone(), postgres);
    serve_running(&mut supervisor, listener, "materializer");
    let config = ProjectorConfig {
        session_timeout: args.consumer.session_timeout(),
        stall_after: args.consumer.stall_after(),
        ..args.view.projector()
    };
    start(&mut supervisor, connections, config)?;
    supervisor.run(args.shared.process.shutdown_deadline()).await
}

/// Starts the projector under `supervisor`.
pub(crate) fn start(supervisor: &mut Supervisor, connections: Connections, config: ProjectorConfig) -> Result<()> {
    // Writes dead letters only.
    let producer = connections.producer(ProducerSettings::default())?;
    let Connections { kafka, pool } = connections;
    probe_kafka(supervisor, &producer, vec![kafka.topics.dead_letters.clone()]);
    projector::start(supervisor, config, pool, producer, kafka);
    Ok(())
}
