//! `triggers up`: a real Kafka, a real PostgreSQL and all roles in one process, for development on one machine.
//!
//! Everything listens on 127.0.0.1 alone. Starting and ending the two servers is `devstack`'s business; what a role is
//! made of is `roles`'.

mod banner;
pub(crate) mod files;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use devstack::{Data, Options, Stack};
use dispatcher::DispatcherConfig;
use kafka::KafkaConfig;
use kafka::topics::{self, Difference};
use runtime::health::Health;
use runtime::lifecycle::{self, Supervisor};
use runtime::postgres::{self, PostgresConfig};
use runtime::seal::SealingKey;
use runtime::telemetry::logs;
use tracing::info;

use crate::roles::{self, Connections, ProcessArgs};
use files::DevJson;

/// Flags of `triggers up`.
#[derive(Args)]
pub(crate) struct UpArgs {
    /// Port of the HTTP API on 127.0.0.1
    #[arg(long, env = "TRIGGERS_PORT", default_value_t = 8080)]
    port: u16,
    /// Where data, keys and dev.json are kept
    #[arg(long, env = "TRIGGERS_DATA_DIR", default_value = ".triggers")]
    data_dir: PathBuf,
    /// Keep nothing: data in a temporary folder, removed at the end; --data-dir is then not looked at
    #[arg(long)]
    ephemeral: bool,
    /// Use this Kafka instead of starting one
    #[arg(long, env = "KAFKA_BROKERS", value_name = "HOST:PORT,…")]
    kafka_brokers: Option<String>,
    /// Use this PostgreSQL instead of starting one
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// Development keys, KEY[=ORGANIZATION NAME], comma-separated; one is made when none is given
    #[arg(long, env = "DEV_API_KEYS", hide_env_values = true)]
    dev_api_keys: Option<String>,
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    tuning: roles::ingest::TuningArgs,
    #[command(flatten)]
    view: roles::materializer::ViewArgs,
}

/// Runs until a signal or until something that was started is lost.
pub(crate) async fn run(args: UpArgs) -> Result<()> {
    logs::init("up", args.process.log_format);
    // First, because it costs nothing and is what most often fails.
    let listener = roles::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port))).await?;
    // Nobody sends work here that could go elsewhere.
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
        info!(brokers, "Using the Kafka that KAFKA_BROKERS names; none is started.");
    }
    if args.database_url.is_some() {
        info!("Using the PostgreSQL that DATABASE_URL names; none is started.");
    }
    if options.kafka || options.postgres {
        info!("Starting Kafka and PostgreSQL; a first start fetches and prepares both and takes longer.");
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
    // On a Kafka of its own this process is always the same member: after a kill its partitions need not wait for the
    // dead one's session.
    kafka.instance = args.kafka_brokers.is_none().then(|| "up".to_owned());
    let pool = postgres::connect(&PostgresConfig::new(&database_url)).context("DATABASE_URL")?;
    postgres::migrate(&pool)
        .await
        .with_context(|| format!("{} could not be migrated", postgres::describe_database(&pool)))?;
    make_topics(&kafka, args.kafka_brokers.is_none()).await?;

    let sealing = SealingKey::load_or_create(&folder.join("sealing.key"))?;
    let operator_token = files::secret(folder, "operator.token", || format!("op_{}", uuid::Uuid::new_v4().simple()))?;
    let dev_keys = match &args.dev_api_keys {
        Some(keys) => keys.clone(),
        None => files::secret(folder, "dev.key", new_dev_key)?,
    };
    let connections = Connections { kafka, pool };
    let base_url = format!("http://{}", listener.local_addr()?);
    let api = roles::ingest::Api {
        connections: connections.clone(),
        sealing: sealing.clone(),
        operator_token: Some(operator_token.clone()),
        dev_api_keys: Some(dev_keys.clone()),
        open_signup: true,
        tuning: args.tuning.clone(),
        egress: DispatcherConfig::default().on_this_machine().egress,
    };
    let organization_id = api.start(&mut supervisor, listener).await?;
    roles::materializer::start(&mut supervisor, connections.clone(), args.view.projector())?;
    roles::dispatcher::start(&mut supervisor, connections, roles::dispatcher::Delivery::local(sealing))?;

    let dev = DevJson {
        metrics_urls: vec![format!("{base_url}/metrics")],
        base_url,
        api_key: first_key(&dev_keys),
        organization_id: organization_id.context("DEV_API_KEYS names no key")?,
        operator_token,
        kafka_brokers: brokers,
        database_url,
    };
    dev.write(folder)?;
    wait_until_ready(&supervisor).await;
    if !supervisor.shutdown().is_cancelled() {
        println!("{}", banner::text(&dev, &folder.display().to_string(), args.ephemeral));
    }
    let running = supervisor.run(args.process.shutdown_deadline());
    tokio::select! {
        outcome = running => outcome,
        reason = stack.failed() => anyhow::bail!("{reason}"),
    }
}

/// Makes the topics, as one broker can have them. Those that exist are repaired only on a Kafka of our `own`.
async fn make_topics(kafka: &KafkaConfig, own: bool) -> Result<()> {
    let replication = topics::Replication { factor: 1, min_in_sync: 1 };
    let manifest = kafka.topics.manifest(schemas::topics::DEFAULT_PARTITIONS);
    let differences = topics::plan(kafka, &manifest, replication)
        .await
        .with_context(|| format!("the topics of {} could not be read", kafka.brokers))?;
    let (made, left): (Vec<Difference>, Vec<Difference>) =
        differences.into_iter().partition(|difference| own || matches!(difference, Difference::Missing(_)));
    roles::validate_topics(&left)?;
    topics::apply(kafka, &made, replication).await.context("the topics could not be made")
}

/// All parts up, or a minute gone: what is printed should be true, but a slow part is no reason to say nothing.
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
                tracing::warn!("Not every part is ready yet; /health/detailed tells which.");
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
