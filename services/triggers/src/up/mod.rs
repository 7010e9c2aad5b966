//! `triggers up`: a real Kafka, a real PostgreSQL and all roles in one process, for development on one machine.
//!
//! Everything listens on 127.0.0.1 only. `devstack` starts and stops the two servers; `roles` has the roles.

mod banner;
pub(crate) mod files;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use devstack::{Data, Options, Stack};
use dispatcher::{DispatcherConfig, EndpointSettings};
use kafka::KafkaConfig;
use kafka::topics::{self, Difference};
use materializer::projector::ProjectorConfig;
use runtime::config::{check_database_url, secret};
use runtime::health::Health;
use runtime::lifecycle::{self, Supervisor};
use runtime::postgres::{self, PostgresConfig};
use runtime::seal::SealingKey;
use runtime::telemetry::logs;
use tracing::info;

use crate::local_system::DEFAULT_DATA_DIR;
use crate::roles::{self, Connections, ProcessArgs};
use files::DevJson;

/// Options of `triggers up`.
#[derive(Args)]
pub(crate) struct UpArgs {
    /// Port of the HTTP API on 127.0.0.1
    #[arg(long, env = "TRIGGERS_PORT", default_value_t = 8080)]
    port: u16,
    /// Folder for data, keys and dev.json
    #[arg(long, env = "TRIGGERS_DATA_DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Keep nothing: use a temporary folder instead of --data-dir, and delete it at the end
    #[arg(long)]
    ephemeral: bool,
    /// Use this Kafka instead of starting one
    #[arg(long, env = "KAFKA_BROKERS", value_name = "HOST:PORT,…")]
    kafka_brokers: Option<String>,
    /// Use this PostgreSQL instead of starting one
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_parser = secret)]
    database_url: Option<String>,
    /// Development keys, KEY[=ORGANIZATION NAME], comma-separated; default: one generated key, kept in the data folder
    #[arg(long, env = "DEV_API_KEYS", hide_env_values = true, value_parser = secret)]
    dev_api_keys: Option<String>,
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    tuning: roles::ingest::TuningArgs,
    #[command(flatten)]
    http: roles::HttpArgs,
    #[command(flatten)]
    view: roles::materializer::ViewArgs,
}

impl UpArgs {
    /// Checks the options, before Kafka and PostgreSQL are started for them.
    fn check(&self) -> Result<()> {
        let no_broker = self.kafka_brokers.as_deref().is_some_and(|brokers| brokers.trim().is_empty());
        anyhow::ensure!(!no_broker, "KAFKA_BROKERS: no broker is named");
        if let Some(url) = &self.database_url {
            check_database_url(url)?;
        }
        if let Some(keys) = &self.dev_api_keys {
            let count = tenancy::check_dev_keys(keys, true).context("DEV_API_KEYS")?;
            anyhow::ensure!(count > 0, "DEV_API_KEYS has no key; remove it to use a generated one");
        }
        Ok(())
    }
}

/// Runs until a signal, or until a server or task stops unexpectedly.
pub(crate) async fn run(args: UpArgs) -> Result<()> {
    logs::init("up", args.process.log_format);
    args.check()?;
    // It is cheap, and a port in use is the most frequent error.
    let listener = roles::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port))).await?;
    // No grace: there is no load balancer that could send requests elsewhere.
    let health = Health::new();
    let shutdown = lifecycle::shutdown_on_signals(health.clone(), Duration::ZERO);
    let stack = tokio::select! {
        stack = start_stack(&args) => stack?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let folder = stack.data_dir().to_owned();
    let outcome = serve(&args, listener, &stack, &folder, Supervisor::new(health, shutdown)).await;
    DevJson::remove(&folder);
    stack.stop().await;
    outcome
}

async fn start_stack(args: &UpArgs) -> Result<Stack> {
    let mut options = Options::persistent(&args.data_dir);
    if args.ephemeral {
        options.data = Data::Ephemeral;
    }
    options.kafka = args.kafka_brokers.is_none();
    options.postgres = args.database_url.is_none();
    if let Some(brokers) = &args.kafka_brokers {
        info!(brokers, "KAFKA_BROKERS is set; using that Kafka instead of starting one");
    }
    if args.database_url.is_some() {
        info!("DATABASE_URL is set; using that PostgreSQL instead of starting one");
    }
    if options.kafka || options.postgres {
        info!("Starting Kafka and PostgreSQL; the first start downloads and initializes them and takes longer");
    }
    Ok(Stack::start(options).await?)
}

async fn serve(
    args: &UpArgs,
    listener: tokio::net::TcpListener,
    stack: &Stack,
    folder: &Path,
    mut supervisor: Supervisor,
) -> Result<()> {
    let brokers = args.kafka_brokers.clone().unwrap_or_else(|| stack.kafka_brokers().to_owned());
    let database_url = args.database_url.clone().unwrap_or_else(|| stack.database_url());
    let mut kafka = KafkaConfig::new(&brokers, "");
    // On its own Kafka this process is always the same group member: after a kill, its partitions are assigned again
    // without waiting for the old session to time out.
    kafka.instance = args.kafka_brokers.is_none().then(|| "up".to_owned());
    let pool = postgres::connect(&PostgresConfig::new(&database_url)).context("DATABASE_URL")?;
    postgres::check_connection(&pool).await.map_err(anyhow::Error::msg)?;
    postgres::migrate(&pool).await.with_context(|| format!("cannot migrate {}", postgres::describe_database(&pool)))?;
    create_topics(&kafka, args.kafka_brokers.is_none()).await?;

    let sealing = SealingKey::load_or_create(&folder.join("sealing.key"))?;
    let new_operator_token = || format!("op_{}", uuid::Uuid::new_v4().simple());
    let operator_token = files::load_or_create_secret(folder, "operator.token", new_operator_token)?;
    let dev_keys = match &args.dev_api_keys {
        Some(keys) => keys.clone(),
        None => files::load_or_create_secret(folder, "dev.key", new_dev_key)?,
    };
    let connections = Connections { kafka, pool };
    let base_url = format!("http://{}", listener.local_addr()?);
    let api = roles::ingest::ApiServer {
        connections: connections.clone(),
        sealing: sealing.clone(),
        operator_token: Some(operator_token.clone()),
        dev_api_keys: Some(dev_keys.clone()),
        open_signup: true,
        signups_per_hour: tenancy::SIGNUPS_PER_HOUR,
        tuning: args.tuning.clone(),
        endpoints: EndpointSettings::new(DispatcherConfig::default().on_this_machine().egress),
        http: args.http.options()?,
        with_metrics: args.process.prometheus_enabled,
    };
    let organization_id = api.start(&mut supervisor, listener).await?;
    let deadline = args.process.shutdown_deadline();
    let projector = ProjectorConfig { shutdown_deadline: deadline, ..args.view.projector() };
    roles::materializer::start(&mut supervisor, connections.clone(), projector)?;
    let delivery = roles::dispatcher::DeliverySettings::local(sealing, deadline);
    roles::dispatcher::start(&mut supervisor, connections, delivery)?;

    let dev = DevJson {
        metrics_urls: args.process.prometheus_enabled.then(|| format!("{base_url}/metrics")).into_iter().collect(),
        base_url,
        api_key: first_key(&dev_keys),
        organization_id: organization_id.context("DEV_API_KEYS has no key")?,
        operator_token,
        kafka_brokers: brokers,
        database_url,
    };
    dev.write(folder)?;
    wait_until_ready(&supervisor).await;
    if !supervisor.shutdown().is_cancelled() {
        println!("{}", banner::text(&dev, &folder.display().to_string(), args.ephemeral));
    }
    let running = supervisor.run(deadline);
    tokio::select! {
        outcome = running => outcome,
        reason = stack.failed() => anyhow::bail!("{reason}"),
    }
}

/// Creates missing topics with one replica. Existing topics are repaired only on this process's `own` Kafka.
async fn create_topics(kafka: &KafkaConfig, own: bool) -> Result<()> {
    let replication = topics::Replication { factor: 1, min_in_sync: 1 };
    let manifest = kafka.topics.manifest(schemas::topics::DEFAULT_PARTITIONS);
    let differences = topics::plan(kafka, &manifest, replication)
        .await
        .with_context(|| format!("cannot read the topics of Kafka at {}", kafka.brokers))?;
    let (repaired, left): (Vec<Difference>, Vec<Difference>) =
        differences.into_iter().partition(|difference| own || matches!(difference, Difference::Missing(_)));
    roles::validate_topics(&left)?;
    topics::apply(kafka, &repaired, replication).await.context("cannot create the topics")
}

/// Waits until all components are healthy, at most a minute: after that, the URL is printed with a warning.
async fn wait_until_ready(supervisor: &Supervisor) {
    const PATIENCE: Duration = Duration::from_secs(60);
    let (health, shutdown) = (supervisor.health(), supervisor.shutdown());
    let ready = async {
        while !health.is_ready() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        outcome = tokio::time::timeout(PATIENCE, ready) => {
            if outcome.is_err() {
                tracing::warn!("Not ready after 60 s; /health/detailed names the unhealthy component");
            }
        }
    }
}

fn new_dev_key() -> String {
    tenancy::key::generate(tenancy::key::Environment::Test).reveal().to_owned()
}

/// The first of `KEY[=NAME],…`.
fn first_key(keys: &str) -> String {
    let first = keys.split(',').next().unwrap_or_default();
    first.split('=').next().unwrap_or_default().trim().to_owned()
}
