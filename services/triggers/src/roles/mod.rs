//! The three roles, and what they have in common: shared flags, the connections, the health page, the end.
//!
//! Each role's own file puts one slice (or, for `ingest`, the routes of all) together from flags. `up` calls the same
//! functions.

pub mod dispatcher;
pub mod ingest;
pub mod materializer;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use platform::config::{KafkaArgs, PostgresArgs};
use platform::health::{Component, Health};
use platform::http::{ServerLimits, ServiceInfo};
use platform::kafka::producer::{Producer, ProducerSettings};
use platform::kafka::{KafkaConfig, topics};
use platform::lifecycle::{self, Supervisor};
use platform::postgres;
use platform::seal::SealingKey;
use platform::telemetry::logs::LogFormat;
use sqlx::postgres::PgPool;
use tokio::net::TcpListener;

/// How long a process may take to end after the deadline of its tasks.
const LET_GO: Duration = Duration::from_secs(3);

/// Flags that every role has.
#[derive(Args, Clone)]
pub struct SharedArgs {
    #[command(flatten)]
    pub kafka: KafkaArgs,
    #[command(flatten)]
    pub postgres: PostgresArgs,
    #[command(flatten)]
    pub process: ProcessArgs,
    /// How long a role goes on as before after a signal to end, reporting that it is not ready, milliseconds
    #[arg(long, env = "SHUTDOWN_GRACE_MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(0..=300_000))]
    pub shutdown_grace_ms: u64,
}

impl SharedArgs {
    /// Without tasks. A signal ends it: first the grace, then the tasks' deadline; a process that hangs is ended.
    fn supervisor(&self, health: &Health) -> Supervisor {
        let grace = Duration::from_millis(self.shutdown_grace_ms);
        let shutdown = lifecycle::shutdown_on_signals(health.clone(), grace);
        lifecycle::end_within(shutdown.clone(), self.process.shutdown_deadline() + LET_GO);
        Supervisor::new(health.clone(), shutdown)
    }
}

/// Flags of a long-running process, whatever it is connected to.
#[derive(Args, Clone)]
pub struct ProcessArgs {
    /// auto: JSON lines, but readable text on a terminal
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
    /// How long open work may take after a signal to end, milliseconds
    #[arg(long, env = "SHUTDOWN_DEADLINE_MS", default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(100..=300_000))]
    pub shutdown_deadline_ms: u64,
}

impl ProcessArgs {
    pub fn shutdown_deadline(&self) -> Duration {
        Duration::from_millis(self.shutdown_deadline_ms)
    }
}

/// Where the sealing key comes from. Without it nothing starts: secrets could neither be written nor read.
#[derive(Args, Clone)]
#[group(required = true, multiple = false)]
pub struct SealingArgs {
    /// Base64 of 32 random bytes, the same on every instance (make one: openssl rand -base64 32)
    #[arg(long, env = "SEALING_KEY", hide_env_values = true)]
    sealing_key: Option<String>,
    /// A file that holds it; `ingest` makes it when absent, `dispatcher` does not
    #[arg(long, env = "SEALING_KEY_FILE", value_name = "FILE")]
    sealing_key_file: Option<PathBuf>,
}

impl SealingArgs {
    fn load(&self) -> Result<SealingKey> {
        match (&self.sealing_key, &self.sealing_key_file) {
            (Some(text), _) => Ok(SealingKey::from_base64(text)?),
            (None, Some(path)) => Ok(SealingKey::load_or_create(path)?),
            (None, None) => anyhow::bail!("SEALING_KEY or SEALING_KEY_FILE must be set"),
        }
    }

    /// For a role that only opens: a key of its own making would open nothing.
    fn load_existing(&self) -> Result<SealingKey> {
        match &self.sealing_key_file {
            Some(path) => SealingKey::load(path)
                .context("SEALING_KEY_FILE (this role makes none: it takes the one that `triggers ingest` made)"),
            None => self.load(),
        }
    }
}

/// What every role is made from.
#[derive(Clone)]
pub struct Connections {
    pub kafka: KafkaConfig,
    pub pool: PgPool,
    /// Whether this process is one role: at its end nothing needs to be closed.
    pub is_a_role: bool,
}

impl Connections {
    fn from_args(args: &SharedArgs) -> Result<Self> {
        let kafka = args.kafka.config()?;
        let pool = postgres::connect(&args.postgres.config()?).context("DATABASE_URL")?;
        Ok(Self { kafka, pool, is_a_role: true })
    }
}

/// Refuses to start on a cluster whose topics contradict the manifest; a cluster that does not answer is no
/// contradiction.
async fn check_topics(args: &KafkaArgs, kafka: &KafkaConfig) -> Result<()> {
    let manifest = kafka.topics.manifest(args.topic_partitions);
    let differences = match topics::plan(kafka, &manifest, args.replication()).await {
        Ok(differences) => differences,
        Err(error) => {
            tracing::warn!(%error, "The topics could not be checked; Kafka may not be up yet.");
            return Ok(());
        }
    };
    judge_topics(&differences)
}

/// Refuses topics that contradict the manifest, and warns of every other difference. Mends nothing: on a Kafka that was
/// given only the operator does.
pub fn judge_topics(differences: &[topics::Difference]) -> Result<()> {
    let fatal = differences.iter().find(|difference| match difference {
        topics::Difference::TooFewReplicas { .. } => true,
        topics::Difference::Setting { name, .. } => name == "message.timestamp.type",
        _ => false,
    });
    if let Some(difference) = fatal {
        anyhow::bail!("{difference}");
    }
    for difference in differences {
        tracing::warn!(%difference, "A topic differs from the manifest; run: triggers topics apply");
    }
    Ok(())
}

/// Makes a producer of the process. That of a role lives as long as the process: dropping one waits for librdkafka's
/// threads, which wait by the clock on the wall, and a process that had ended well would hang for as long as that was
/// set back.
fn make_producer(kafka: &KafkaConfig, settings: ProducerSettings, is_a_role: bool) -> Result<Producer> {
    let producer = Producer::new(kafka, settings).context("the Kafka producer could not be made")?;
    if is_a_role {
        std::mem::forget(producer.clone());
    }
    Ok(producer)
}

/// Tells `kafka` whether the topics that `producer` writes answer.
fn keep_in_touch(supervisor: &mut Supervisor, producer: &Producer, topics: Vec<String>) {
    let (producer, kafka) = (producer.clone(), supervisor.health().component("kafka"));
    let shutdown = supervisor.shutdown();
    supervisor.spawn("kafka probe", async move {
        producer.keep_in_touch(&topics, kafka, shutdown).await;
        Ok(())
    });
}

/// Tells `postgres` every two seconds whether the database answers.
fn probe_postgres(supervisor: &mut Supervisor, pool: PgPool, postgres: Component) {
    const INTERVAL: Duration = Duration::from_secs(2);
    let shutdown = supervisor.shutdown();
    supervisor.spawn("postgres probe", async move {
        loop {
            match sqlx::query("SELECT 1").execute(&pool).await {
                Ok(_) => postgres.up(),
                Err(error) => postgres.down(error.to_string()),
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    });
}

/// Serves health and metrics, which is all that a consumer serves over HTTP.
fn serve_running(supervisor: &mut Supervisor, listener: TcpListener, role: &'static str) {
    let router = platform::http::running_routes(service_info(role), supervisor.health().clone());
    let server = platform::http::serve(listener, router, ServerLimits::default(), supervisor.shutdown());
    supervisor.spawn("http", async move { Ok(server.await?) });
}

/// What `/status` tells of this process.
pub fn service_info(role: &'static str) -> ServiceInfo {
    ServiceInfo::new("triggers", role, env!("CARGO_PKG_VERSION"))
}

/// Binds, with one clear sentence when it cannot.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => {
            // Port 0 takes a free one: this line tells which.
            tracing::info!(address = %listener.local_addr()?, "Listening.");
            Ok(listener)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            anyhow::bail!(
                "port {} on {} is in use by another program; choose another one",
                address.port(),
                address.ip()
            )
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {address}")),
    }
}
