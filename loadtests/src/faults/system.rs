//! Everything that a run has: the cluster, the product's processes, the receiver; and organizations for each round.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use devstack::{Cluster, ClusterOptions};
use rdkafka::consumer::BaseConsumer;
use schemas::topics::TopicNames;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use super::audit;
use super::client::Api;
use super::fleet::{Fleet, Role};
use super::load::Tenant;
use super::positions::{self, Ends, Serving};
use super::receiver::Receiver;

/// Delays between attempts, seconds: quick at first, and enough of them to outlast the longest fault.
const RETRIES: [u32; 20] = [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 5, 5, 5, 5, 10, 10, 10];
/// How long a receiver may take to answer, seconds.
const TIMEOUT_SECONDS: u32 = 3;
/// How long a command of the product may take.
const COMMAND: Duration = Duration::from_secs(60);

/// What the system is made of.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The product's binary.
    pub binary: PathBuf,
    /// Takes the logs.
    pub folder: PathBuf,
    /// Kafka nodes.
    pub brokers: u8,
    /// Instances of each role.
    pub instances: u8,
    /// How long a silent consumer keeps its partitions, milliseconds.
    pub session_ms: u32,
    /// Partitions of the keyed topics.
    pub partitions: i32,
    /// Organizations of each round; every third has no endpoint, every other third two.
    pub organizations: usize,
    /// Size of the last broker's disk, MiB; 0: no disk of its own.
    pub small_disk_mib: u32,
}

/// A running system.
pub struct System {
    /// What it was made from.
    pub shape: Shape,
    /// Kafka and PostgreSQL.
    pub cluster: Cluster,
    /// The product's processes.
    pub fleet: Fleet,
    /// Takes the webhooks.
    pub receiver: Arc<Receiver>,
    /// To the instances of `ingest`.
    pub api: Arc<Api>,
    /// To PostgreSQL, as an observer.
    pub pool: PgPool,
    /// Names of the topics.
    pub topics: TopicNames,
    consumer: Arc<BaseConsumer>,
    operator: String,
    /// Of the product's commands.
    environment: Vec<(String, String)>,
}

impl System {
    /// Starts everything, and returns when all roles are ready.
    pub async fn start(shape: Shape) -> anyhow::Result<Self> {
        let small_disk_mib = Some(shape.small_disk_mib).filter(|mib| *mib > 0);
        let cluster = Cluster::start(ClusterOptions { nodes: shape.brokers, small_disk_mib }).await?;
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy(&cluster.database_url())?;
        let receiver = Arc::new(Receiver::start().await?);
        let operator = Uuid::new_v4().simple().to_string();
        let sealing_key = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat(),
        );
        let copies = shape.brokers.min(3);
        let heartbeat = (shape.session_ms / 10).max(200);
        let shared: Vec<(String, String)> = [
            ("PATH", std::env::var("PATH").unwrap_or_default()),
            ("KAFKA_BROKERS", cluster.kafka_brokers().to_owned()),
            ("KAFKA_PROPERTIES", format!("session.timeout.ms={};heartbeat.interval.ms={heartbeat}", shape.session_ms)),
            ("TOPIC_PARTITIONS", shape.partitions.to_string()),
            ("TOPIC_REPLICATION_FACTOR", copies.to_string()),
            ("TOPIC_MIN_INSYNC_REPLICAS", copies.div_ceil(2).to_string()),
            ("OPERATOR_TOKEN", operator.clone()),
            ("SEALING_KEY", sealing_key),
            ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8".to_owned()),
            ("WEBHOOK_ALLOW_HTTP", "true".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
            // No load balancer watches the readiness here; roles are restarted one after the other.
            ("SHUTDOWN_GRACE_MS", "1000".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let with_url = |url: &str| [shared.clone(), vec![("DATABASE_URL".to_owned(), url.to_owned())]].concat();
        let environment = with_url(&cluster.database_url());
        for command in [["migrate"].as_slice(), &["topics", "apply"]] {
            run_command(&shape, &environment, command, COMMAND).await?.map_err(anyhow::Error::msg)?;
        }
        audit::install(&pool).await?;
        let mut fleet = Fleet::new(&shape.binary, &shape.folder)?;
        for role in Role::ALL {
            for number in 0..shape.instances {
                let name = format!("{}-{number}", role.name());
                let password = Uuid::new_v4().simple().to_string();
                let user = audit::user(&pool, &name, &password).await?;
                let url = with_user(&cluster.database_url(), &user, &password);
                fleet.add(role, name, with_url(&url))?;
            }
        }
        fleet.start_ready(&fleet.all().iter().collect::<Vec<_>>()).await?;
        let api = Arc::new(Api::new(fleet.base_urls())?);
        let consumer = Arc::new(positions::client(cluster.kafka_brokers())?);
        let topics = TopicNames::with_prefix("");
        Ok(Self { shape, cluster, fleet, receiver, api, pool, topics, consumer, operator, environment })
    }

    /// New organizations with keys and endpoints; `prefix` begins the endpoints' names.
    pub async fn tenants(&self, prefix: &str) -> anyhow::Result<Vec<Tenant>> {
        let mut tenants = Vec::new();
        for number in 0..self.shape.organizations {
            let wanted =
                json!({"name": format!("{prefix} {number}"), "tier": "enterprise", "rate_limit_per_minute": 0});
            let org = text(&self.api.make("/v1/organizations", &self.operator, &wanted).await?, "id")?;
            let wanted = json!({"name": "faults", "role": "manage"});
            let made = self.api.make(&format!("/v1/organizations/{org}/keys"), &self.operator, &wanted).await?;
            let mut tenant = Tenant { org: org.parse()?, key: text(&made, "key")?, endpoints: Vec::new() };
            for nth in 0..number % 3 {
                let name = format!("{prefix}-o{number}-e{nth}");
                let wanted = json!({"url": self.receiver.url(&name), "retry_schedule": RETRIES, "timeout_seconds": TIMEOUT_SECONDS});
                let made = self.api.make("/v1/endpoints", &tenant.key, &wanted).await?;
                self.receiver.know(&name, text(&made, "secret")?);
                tenant.endpoints.push(name);
            }
            tenants.push(tenant);
        }
        Ok(tenants)
    }

    /// Where the topics end now.
    pub async fn ends(&self) -> anyhow::Result<Ends> {
        let (consumer, topics, partitions) = (Arc::clone(&self.consumer), self.topics.clone(), self.shape.partitions);
        tokio::task::spawn_blocking(move || positions::ends(&consumer, &topics, partitions)).await?
    }

    /// Which brokers serve the events topic now.
    pub async fn serving_events(&self) -> anyhow::Result<Serving> {
        let (consumer, topic) = (Arc::clone(&self.consumer), self.topics.events.clone());
        tokio::task::spawn_blocking(move || positions::serving(&consumer, &topic)).await?
    }

    /// Reads the log between two ends.
    pub async fn read_log(&self, from: Option<Ends>, to: Ends) -> anyhow::Result<super::log::Reading> {
        let (consumer, topics) = (Arc::clone(&self.consumer), self.topics.clone());
        tokio::task::spawn_blocking(move || super::log::read(&consumer, &topics, from.as_ref(), &to)).await?
    }

    /// Runs a command of the product, as an operator would; what it told when it failed.
    pub async fn command(&self, arguments: &[&str], patience: Duration) -> anyhow::Result<Result<(), String>> {
        run_command(&self.shape, &self.environment, arguments, patience).await
    }

    /// Ends everything.
    pub async fn stop(self) {
        drop(self.fleet);
        self.pool.close().await;
        // Closing a client waits for its threads.
        drop(tokio::task::spawn_blocking(move || drop(self.consumer)).await);
        self.cluster.stop().await;
    }
}

async fn run_command(
    shape: &Shape,
    environment: &[(String, String)],
    arguments: &[&str],
    patience: Duration,
) -> anyhow::Result<Result<(), String>> {
    let mut command = tokio::process::Command::new(&shape.binary);
    command.args(arguments).env_clear().envs(environment.iter().cloned()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(patience, command.output())
        .await
        .with_context(|| format!("triggers {arguments:?} took too long"))??;
    let told = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(if output.status.success() { Ok(()) } else { Err(format!("triggers {arguments:?} failed: {}", told())) })
}

fn text(value: &Value, field: &str) -> anyhow::Result<String> {
    value[field].as_str().map(str::to_owned).with_context(|| format!("a reply has no {field}"))
}

/// The URL with another user in it.
fn with_user(url: &str, user: &str, password: &str) -> String {
    let server = url.split_once('@').map_or(url, |(_, server)| server);
    format!("postgres://{user}:{password}@{server}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_user_keeps_the_rest_of_the_url() {
        assert_eq!(
            with_user("postgres://triggers:word@127.0.0.1:5/t?x=y", "me", "mine"),
            "postgres://me:mine@127.0.0.1:5/t?x=y"
        );
    }
}
