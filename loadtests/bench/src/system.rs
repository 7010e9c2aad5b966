//! A system for one comparison: Kafka and PostgreSQL with full durability in a temporary folder, and one process of
//! each role, so that the CPU of each role is known. It stops with this process and leaves nothing behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use devstack::{Data, Options, Process, Program, Signal, Stack};
use loadkit::{Role, run_command, sealing_key};
use runtime::postgres::connect_options;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::control_client::ControlClient;
use crate::eventually::eventually;
use crate::lag;
use crate::process_usage::{Component, listener};
use crate::target::{Address, Target, port_of};

/// How long a role may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a role may take to exit after SIGTERM.
const EXIT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a setup command of the product may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// How long records of earlier runs may take.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(5);

/// A running role and its HTTP server.
struct Running {
    process: Process,
    http: ControlClient,
    metrics: Address,
    number: usize,
}

/// Kafka, PostgreSQL, and the roles that were started.
pub(crate) struct System {
    stack: Stack,
    program: PathBuf,
    environment: Vec<(String, String)>,
    /// Always the same, so that the keys of the organizations stay valid.
    ingest_listen: String,
    /// The instances that run of each role.
    roles: BTreeMap<Role, Vec<Running>>,
    /// How many instances of a role run, where it is not one.
    instances: BTreeMap<Role, usize>,
    /// The system as a load addresses it.
    pub target: Target,
}

impl System {
    /// Starts Kafka and PostgreSQL, and creates schema and topics. No role runs. `program` is the binary `triggers`;
    /// `settings` are added to the environment of all its processes.
    pub(crate) async fn start(program: &Path, settings: &[(String, String)]) -> anyhow::Result<Self> {
        ensure!(program.is_file(), "{} does not exist: build it, or give --triggers", program.display());
        let program = program.canonicalize().with_context(|| format!("finding {}", program.display()))?;
        eprintln!("starting Kafka and PostgreSQL");
        let stack = Stack::start(Options { data: Data::Ephemeral, ..Options::persistent("") }).await?;
        let operator_token = Uuid::new_v4().simple().to_string();
        let ingest_listen = format!("127.0.0.1:{}", devstack::free_port()?);
        let environment = [
            ("PATH", std::env::var("PATH").unwrap_or_default()),
            ("KAFKA_BROKERS", stack.kafka_brokers().to_owned()),
            ("DATABASE_URL", stack.database_url()),
            ("TOPIC_REPLICATION_FACTOR", "1".to_owned()),
            ("TOPIC_MIN_INSYNC_REPLICAS", "1".to_owned()),
            ("OPERATOR_TOKEN", operator_token.clone()),
            ("SEALING_KEY", sealing_key()),
            ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8".to_owned()),
            ("WEBHOOK_ALLOW_HTTP", "true".to_owned()),
            // All of the load comes from one.
            ("MAX_CONNECTIONS_PER_ADDRESS", "20000".to_owned()),
            ("SHUTDOWN_GRACE_MS", "0".to_owned()),
            ("RUST_LOG", "warn".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value));
        let environment = [environment.as_slice(), settings].concat();
        let address = Address::parse(&format!("http://{ingest_listen}"), false)
            .map_err(|failure| anyhow::anyhow!("the address of ingest: {failure}"))?;
        let target = Target {
            address,
            further_addresses: Vec::new(),
            metrics: None,
            key: None,
            operator_token: Some(operator_token),
            database_url: Some(stack.database_url()),
            kafka_brokers: Some(stack.kafka_brokers().to_owned()),
            data_dir: stack.data_dir().to_owned(),
        };
        let system = Self {
            stack,
            program,
            environment,
            ingest_listen,
            roles: BTreeMap::new(),
            instances: BTreeMap::new(),
            target,
        };
        for command in [["migrate"].as_slice(), &["topics", "apply"]] {
            let done = run_command(&system.program, &system.environment, command, COMMAND_TIMEOUT).await?;
            done.map_err(anyhow::Error::msg)?;
        }
        Ok(system)
    }

    /// Starts the roles that do not run, and waits until all are ready.
    pub(crate) async fn run(&mut self, roles: &[Role]) -> anyhow::Result<()> {
        for role in roles {
            let wanted = self.instances.get(role).copied().unwrap_or(1);
            for number in self.roles.get(role).map_or(0, Vec::len)..wanted {
                let running = self.spawn(*role, number)?;
                if (*role, number) == (Role::Ingest, 0) {
                    self.target.metrics = Some(running.metrics.clone());
                }
                self.roles.entry(*role).or_default().push(running);
            }
        }
        for (role, running) in &self.roles {
            for instance in running {
                self.wait_ready(*role, instance).await?;
            }
        }
        Ok(())
    }

    /// The same, and waits until the roles have applied what was left on the log while they did not run: they would do
    /// that during a run.
    pub(crate) async fn run_and_catch_up(&mut self, roles: &[Role]) -> anyhow::Result<()> {
        self.run(roles).await?;
        for role in [Role::Materializer, Role::Dispatcher].into_iter().filter(|role| roles.contains(role)) {
            lag::wait_for(&self.target, role, CATCH_UP_TIMEOUT).await?;
        }
        Ok(())
    }

    /// From now on, so many instances of each role run; of the others, one does. Stops all that run.
    pub(crate) async fn set_instances(&mut self, instances: BTreeMap<Role, usize>) -> anyhow::Result<()> {
        self.keep_only(&[]).await?;
        self.target.further_addresses.clear();
        for _ in 1..instances.get(&Role::Ingest).copied().unwrap_or(1) {
            self.target.further_addresses.push(format!("127.0.0.1:{}", devstack::free_port()?));
        }
        self.instances = instances;
        Ok(())
    }

    fn spawn(&self, role: Role, number: usize) -> anyhow::Result<Running> {
        let metrics_listen = format!("127.0.0.1:{}", devstack::free_port()?);
        let mut environment = self.environment.clone();
        environment.push(("METRICS_LISTEN".to_owned(), metrics_listen.clone()));
        // The first instance has the address of the target.
        let further = number.checked_sub(1).and_then(|further| self.target.further_addresses.get(further));
        let ingest_listen = further.unwrap_or(&self.ingest_listen);
        environment.push(("LISTEN".to_owned(), ingest_listen.clone()));
        let folder = self.stack.data_dir();
        let process = Process::start(&Program {
            program: &self.program,
            args: &[role.name()],
            environment: &environment,
            folder,
            output: &folder.join(format!("{}-{number}.log", role.name())),
        })
        .with_context(|| format!("starting the role {}", role.name()))?;
        let listen = if role == Role::Ingest { ingest_listen } else { &metrics_listen };
        let address = |listen: &str, path: &str| {
            Address::parse(&format!("http://{listen}{path}"), false)
                .map_err(|failure| anyhow::anyhow!("the address of {}: {failure}", role.name()))
        };
        let http = ControlClient::new(&address(listen, "")?)?;
        Ok(Running { process, http, metrics: address(&metrics_listen, "/metrics")?, number })
    }

    async fn wait_ready(&self, role: Role, running: &Running) -> anyhow::Result<()> {
        eventually(POLL, READY_TIMEOUT, &format!("the role {} is ready", role.name()), async || {
            if let Some(status) = running.process.exited() {
                let log = self.stack.data_dir().join(format!("{}-{}.log", role.name(), running.number));
                let log = std::fs::read_to_string(log).unwrap_or_default();
                bail!("the role {} ended with {status}: {log}", role.name());
            }
            Ok(matches!(running.http.get("/health/ready", "").await, Ok((200, _))).then_some(()))
        })
        .await
    }

    /// Stops all roles that run and are not in `kept`.
    pub(crate) async fn keep_only(&mut self, kept: &[Role]) -> anyhow::Result<()> {
        let stopping: Vec<Role> = self.roles.keys().filter(|role| !kept.contains(role)).copied().collect();
        for role in stopping {
            let running = self.roles.remove(&role).unwrap_or_default();
            running.iter().for_each(|instance| instance.process.signal(Signal::TERM));
            for instance in running {
                let status = instance.process.ended(EXIT_TIMEOUT).await;
                let is_clean = status.is_some_and(|status| status.success());
                ensure!(is_clean, "{} did not exit cleanly: {status:?}", role.name());
            }
        }
        Ok(())
    }

    /// Deletes what the view shows of events. No role may run.
    pub(crate) async fn empty_view(&mut self) -> anyhow::Result<()> {
        self.keep_only(&[]).await?;
        let options = connect_options(&self.stack.database_url()).context("the database URL is invalid")?;
        let mut connection = PgConnection::connect_with(&options).await.context("connecting to the database")?;
        let statement = "TRUNCATE view.events, view.deliveries, view.delivery_attempts, event_ids";
        sqlx::query(statement).execute(&mut connection).await.context("emptying the view")?;
        connection.close().await.context("closing the connection")
    }

    /// The processes of the roles that run, of Kafka and of PostgreSQL.
    pub(crate) fn components(&self) -> Vec<Component> {
        let of_role = |(role, running): (&Role, &Vec<Running>)| {
            running.iter().map(|instance| Component::new(role.name(), instance.process.pid())).collect::<Vec<_>>()
        };
        let roles = self.roles.iter().flat_map(of_role);
        let ports = [("kafka", port_of(self.stack.kafka_brokers())), ("postgres", port_of(&self.stack.database_url()))];
        let servers = ports.into_iter().filter_map(|(name, port)| Some(Component::new(name, listener(port?)?)));
        roles.chain(servers).collect()
    }

    pub(crate) async fn stop(self) {
        drop(self.roles);
        self.stack.stop().await;
    }
}
