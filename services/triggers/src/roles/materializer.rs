//! Role `materializer`: builds the inbox from the log. Over HTTP it serves only health and metrics.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use kafka::config::ConsumerArgs;
use kafka::producer::ProducerSettings;
use materializer::projector::{self, MAX_RETENTION_DAYS, ProjectorConfig};
use runtime::health::Health;
use runtime::lifecycle::Supervisor;
use runtime::telemetry::logs;

use super::probes::{probe_kafka, probe_postgres, serve_health};
use super::schema::wait_for_schema;
use super::topics::check_topics;
use super::{Connections, RoleArgs, bind};

/// Options of `triggers materializer`.
#[derive(Args)]
pub(crate) struct MaterializerArgs {
    /// Address for health and metrics
    #[arg(long, env = "METRICS_LISTEN", default_value = "127.0.0.1:9091", value_name = "HOST:PORT")]
    metrics_listen: SocketAddr,
    #[command(flatten)]
    view: ViewArgs,
    #[command(flatten)]
    role: RoleArgs,
    #[command(flatten)]
    consumer: ConsumerArgs,
}

/// Retention of the view.
#[derive(Args)]
pub(crate) struct ViewArgs {
    /// Days that the inbox keeps an event at least, acknowledged or not
    #[arg(long, env = "VIEW_RETENTION_DAYS", default_value_t = 30, value_name = "DAYS",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RETENTION_DAYS)))]
    view_retention_days: u32,
}

impl ViewArgs {
    pub(crate) fn projector(&self) -> ProjectorConfig {
        ProjectorConfig { retention_days: self.view_retention_days, ..ProjectorConfig::default() }
    }
}

/// Runs the role as its own process.
pub(crate) async fn main(args: MaterializerArgs) -> Result<()> {
    logs::init("materializer", args.role.process.log_format);
    let listener = bind(args.metrics_listen).await?;
    let connections = Connections::from_args(&args.role)?;
    check_topics(&args.role.kafka, &connections.kafka).await?;
    let mut supervisor = args.role.supervisor(&Health::new());
    // Registered before HTTP is served: a role is not ready until its consumer works.
    drop(supervisor.health().component(projector::CONSUMER));
    // A consumer without records sends no query, so it would not notice that PostgreSQL does not answer.
    let postgres = supervisor.health().component("postgres");
    probe_postgres(&mut supervisor, connections.pool.clone(), postgres);
    serve_health(&mut supervisor, listener, "materializer", args.role.process.prometheus_enabled);
    wait_for_schema(&supervisor, &connections.pool).await?;
    let config = ProjectorConfig {
        session_timeout: args.consumer.session_timeout(),
        stall_after: args.consumer.stall_after(),
        shutdown_deadline: args.role.process.shutdown_deadline(),
        ..args.view.projector()
    };
    start(&mut supervisor, connections, config)?;
    supervisor.run(args.role.process.shutdown_deadline()).await
}

/// Starts the projector under `supervisor`.
pub(crate) fn start(supervisor: &mut Supervisor, connections: Connections, config: ProjectorConfig) -> Result<()> {
    // For dead letters only.
    let producer = connections.producer(ProducerSettings::default())?;
    let Connections { kafka, pool } = connections;
    probe_kafka(supervisor, &producer, vec![kafka.topics.dead_letters.clone()]);
    projector::start(supervisor, config, pool, producer, kafka);
    Ok(())
}
