//! The system of a run: the cluster, the product's processes and the webhook receiver; and organizations for each
//! round.

use std::path::PathBuf;
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

use crate::audit;
use crate::check::Violation;
use crate::client::Api;
use crate::fleet::{Fleet, database_user};
use crate::load::Tenant;
use crate::log_reader::{self, LogContent};
use crate::offsets::{self, EndOffsets, TopicBrokers};
use crate::receiver::Receiver;
use loadkit::{Role, run_command, sealing_key};

/// Delays between attempts in seconds: short at first, and long enough in all for the longest fault.
const RETRY_SCHEDULE: [u32; 20] = [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 5, 5, 5, 5, 10, 10, 10];
/// How long a receiver may take to answer, in seconds.
const ENDPOINT_TIMEOUT_SECONDS: u32 = 3;
/// How long a setup command of the product may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Size and options of the system.
#[derive(Debug, Clone)]
pub(crate) struct SystemOptions {
    /// The binary under test.
    pub binary: PathBuf,
    /// Folder for the logs.
    pub folder: PathBuf,
    pub brokers: u8,
    /// Instances of each role.
    pub instances: u8,
    /// Session timeout of the consumers, in milliseconds.
    pub session_ms: u32,
    /// Partitions of the keyed topics.
    pub partitions: i32,
    /// Organizations of each round; they have none, one or two endpoints in turns.
    pub organizations: usize,
    /// Size of the last broker's own disk, in MiB; 0: it has none.
    pub small_disk_mib: u32,
}

pub(crate) struct System {
    /// Its size and options.
    pub options: SystemOptions,
    pub cluster: Cluster,
    pub fleet: Fleet,
    pub receiver: Arc<Receiver>,
    /// Client of the instances of `ingest`.
    pub api: Arc<Api>,
    /// Connections to PostgreSQL as an observer.
    pub pool: PgPool,
    /// Names of the topics.
    pub topics: TopicNames,
    consumer: Arc<BaseConsumer>,
    operator_token: String,
    /// Environment of the product's commands.
    environment: Vec<(String, String)>,
}

impl System {
    /// Starts everything and waits until all roles are ready.
    pub(crate) async fn start(options: SystemOptions) -> anyhow::Result<Self> {
        let small_disk_mib = Some(options.small_disk_mib).filter(|mib| *mib > 0);
        let cluster = Cluster::start(ClusterOptions { nodes: options.brokers, small_disk_mib }).await?;
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy(&cluster.database_url())?;
        let receiver = Arc::new(Receiver::start().await?);
        let operator_token = Uuid::new_v4().simple().to_string();
        let replicas = options.brokers.min(3);
        let heartbeat = (options.session_ms / 10).max(200);
        let shared: Vec<(String, String)> = [
            ("PATH", std::env::var("PATH").unwrap_or_default()),
            ("KAFKA_BROKERS", cluster.kafka_brokers().to_owned()),
            (
                "KAFKA_PROPERTIES",
                format!("session.timeout.ms={};heartbeat.interval.ms={heartbeat}", options.session_ms),
            ),
            ("TOPIC_PARTITIONS", options.partitions.to_string()),
            ("TOPIC_REPLICATION_FACTOR", replicas.to_string()),
            ("TOPIC_MIN_INSYNC_REPLICAS", replicas.div_ceil(2).to_string()),
            ("OPERATOR_TOKEN", operator_token.clone()),
            ("SEALING_KEY", sealing_key()),
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
            run_command(&options.binary, &environment, command, COMMAND_TIMEOUT).await?.map_err(anyhow::Error::msg)?;
        }
        audit::install(&pool).await?;
        let mut fleet = Fleet::new(&options.binary, &options.folder)?;
        for role in Role::ALL {
            for number in 0..options.instances {
                let name = format!("{}-{number}", role.name());
                let password = Uuid::new_v4().simple().to_string();
                let user = database_user(&name);
                audit::create_user(&pool, &user, &password).await?;
                let url = with_user(&cluster.database_url(), &user, &password);
                fleet.add(role, name, with_url(&url))?;
            }
        }
        fleet.start_all().await?;
        let api = Arc::new(Api::new(fleet.base_urls())?);
        let consumer = Arc::new(offsets::client(cluster.kafka_brokers())?);
        let topics = TopicNames::with_prefix("");
        Ok(Self { options, cluster, fleet, receiver, api, pool, topics, consumer, operator_token, environment })
    }

    /// Creates organizations with keys and endpoints. The names of the endpoints start with `prefix`.
    pub(crate) async fn create_tenants(&self, prefix: &str) -> anyhow::Result<Vec<Tenant>> {
        let mut tenants = Vec::new();
        for number in 0..self.options.organizations {
            let (org, key) = self.create_organization(&format!("{prefix} {number}")).await?;
            let mut tenant = Tenant { org, key, endpoints: Vec::new() };
            for nth in 0..number % 3 {
                let name = format!("{prefix}-o{number}-e{nth}");
                let endpoint = json!({
                    "url": self.receiver.url(&name),
                    "retry_schedule": RETRY_SCHEDULE,
                    "timeout_seconds": ENDPOINT_TIMEOUT_SECONDS,
                });
                let created = self.api.create("/v1/endpoints", &tenant.key, &endpoint).await?;
                self.receiver.register(&name, text(&created, "secret")?);
                tenant.endpoints.push(name);
            }
            tenants.push(tenant);
        }
        Ok(tenants)
    }

    /// Creates an organization without limits, and a key of it.
    pub(crate) async fn create_organization(&self, name: &str) -> anyhow::Result<(Uuid, String)> {
        let organization = json!({"name": name, "tier": "enterprise", "rate_limit_per_minute": 0});
        let org = text(&self.api.create("/v1/organizations", &self.operator_token, &organization).await?, "id")?;
        let key = json!({"name": "faults", "role": "manage"});
        let created = self.api.create(&format!("/v1/organizations/{org}/keys"), &self.operator_token, &key).await?;
        Ok((org.parse()?, text(&created, "key")?))
    }

    /// The current end offsets of the topics.
    pub(crate) async fn end_offsets(&self) -> anyhow::Result<EndOffsets> {
        let (consumer, topics, partitions) = (Arc::clone(&self.consumer), self.topics.clone(), self.options.partitions);
        tokio::task::spawn_blocking(move || offsets::end_offsets(&consumer, &topics, partitions)).await?
    }

    /// The current brokers of the events topic.
    pub(crate) async fn events_topic_brokers(&self) -> anyhow::Result<TopicBrokers> {
        let (consumer, topic) = (Arc::clone(&self.consumer), self.topics.events.clone());
        tokio::task::spawn_blocking(move || offsets::topic_brokers(&consumer, &topic)).await?
    }

    /// Reads the log from `from`, or from its start, to `to`.
    pub(crate) async fn read_log(&self, from: Option<EndOffsets>, to: EndOffsets) -> anyhow::Result<LogContent> {
        let (consumer, topics) = (Arc::clone(&self.consumer), self.topics.clone());
        tokio::task::spawn_blocking(move || log_reader::read(&consumer, &topics, from.as_ref(), &to)).await?
    }

    /// Runs a command of the product as an operator does. Returns its output if it failed.
    pub(crate) async fn command(&self, arguments: &[&str], timeout: Duration) -> anyhow::Result<Result<(), String>> {
        run_command(&self.options.binary, &self.environment, arguments, timeout).await
    }

    /// Violations of the fence since the last call, and instances that exited unexpectedly.
    pub(crate) async fn background_violations(&self) -> anyhow::Result<Vec<Violation>> {
        let mut found = audit::take_violations(&self.pool).await?;
        let exited = self.fleet.exited_unexpectedly();
        found.extend(exited.iter().map(|name| Violation::new("exited", format!("{name} exited unexpectedly"))));
        Ok(found)
    }

    pub(crate) async fn stop(self) {
        drop(self.fleet);
        self.pool.close().await;
        // Dropping a client waits for its threads.
        drop(tokio::task::spawn_blocking(move || drop(self.consumer)).await);
        self.cluster.stop().await;
    }
}

fn text(value: &Value, field: &str) -> anyhow::Result<String> {
    value[field].as_str().map(str::to_owned).with_context(|| format!("the reply has no {field}"))
}

/// The database URL with another user.
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
