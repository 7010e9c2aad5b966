//! One node of Apache Kafka, which is broker and controller, alone or in a cluster: settings, formatting, command line
//! and readiness.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;

use crate::child::{Child, Launch};
use crate::jars::{self, Jars};
use crate::options::{Durability, Heap, Security};
use crate::tools::{self, Java, User};
use crate::{Error, files, secured};

/// How long formatting, or one command, may take.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(60);
/// How long one call of the ready check may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the port is tried before Kafka listens.
const POLL: Duration = Duration::from_millis(50);
/// For programs that end soon. The second compiler of the JVM takes much of the CPU in the first minute under load, and
/// saves a fifth of Kafka's CPU from then on (docs/performance.md).
const FIRST_COMPILER: &str = "-XX:TieredStopAtLevel=1";

/// Warnings and errors, in at most three files of 8 MB.
const LOG4J: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="error">
  <Appenders>
    <RollingFile name="file" fileName="logs/kafka.log" filePattern="logs/kafka.%i.log">
      <PatternLayout pattern="%d{ISO8601} %p %c{1}: %m%n"/>
      <SizeBasedTriggeringPolicy size="8 MB"/>
      <DefaultRolloverStrategy max="2"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <Root level="warn"><AppenderRef ref="file"/></Root>
  </Loggers>
</Configuration>
"#;

/// One Kafka node: the settings that do not change between its starts.
pub(crate) struct Kafka {
    setpriv: PathBuf,
    java: Java,
    user: Option<User>,
    folder: PathBuf,
    class_path: String,
    cluster_id: String,
    id: i32,
    port: u16,
    voters: Vec<Voter>,
    durability: Durability,
    heap: Heap,
    security: Option<Box<Security>>,
    address: String,
}

/// One member of the controller quorum: every node is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Voter {
    /// Node id, from 1.
    pub(crate) id: i32,
    /// Its controller's port on 127.0.0.1.
    pub(crate) port: u16,
}

pub(crate) struct Settings<'a> {
    pub(crate) folder: PathBuf,
    pub(crate) user: Option<&'a User>,
    pub(crate) cluster_id: &'a str,
    pub(crate) id: i32,
    pub(crate) port: u16,
    /// All nodes of the cluster, this one among them.
    pub(crate) voters: Vec<Voter>,
    pub(crate) durability: Durability,
    pub(crate) heap: Heap,
    pub(crate) security: Option<Security>,
}

impl Kafka {
    /// Writes the settings, and formats the storage if it is not formatted.
    pub(crate) async fn prepare(settings: Settings<'_>, java: Java, jars: &Jars) -> Result<Self, Error> {
        if let Some(closed) = tools::barrier(&java.path, settings.user) {
            let problem = format!("Java is in {}, which the user that Kafka runs as cannot enter", closed.display());
            return Err(Error::UnusableTool(problem));
        }
        let names: Vec<String> = jars.names.iter().map(|name| format!("jars/{name}")).collect();
        let kafka = Self {
            setpriv: tools::setpriv()?,
            java,
            user: settings.user.cloned(),
            folder: settings.folder,
            // Relative to the working directory, so that it does not depend on the path of the data folder.
            class_path: names.join(":"),
            cluster_id: settings.cluster_id.to_owned(),
            id: settings.id,
            port: settings.port,
            voters: settings.voters,
            durability: settings.durability,
            heap: settings.heap,
            security: settings.security.map(Box::new),
            address: format!("127.0.0.1:{}", settings.port),
        };
        kafka.write_files(jars)?;
        kafka.format().await?;
        Ok(kafka)
    }

    fn write_files(&self, jars: &Jars) -> Result<(), Error> {
        let user = self.user.as_ref();
        files::create_closed_dir(&self.folder, user)?;
        // Kafka unpacks native libraries into `tmp` and leaves them there when it is killed.
        files::remove_dir(&self.folder.join("tmp"))?;
        for name in ["data", "logs", "tmp"] {
            files::create_private_dir(&self.folder.join(name), user)?;
        }
        // `any_jar` exists; of a file that does not exist, no barrier would be found.
        let any_jar = jars.folder.join(jars.names.first().map_or(".", String::as_str));
        let reachable = tools::barrier(&any_jar, user).is_none();
        jars::provide(jars, &self.folder.join("jars"), reachable)?;
        files::write(&self.folder.join("log4j2.xml"), LOG4J, 0o644)?;
        if let Some(security) = &self.security {
            secured::write_kafka_files(security, &self.folder, user)?;
        }
        files::write_private(&self.folder.join("server.properties"), &self.properties(), user)
    }

    fn properties(&self) -> String {
        let (port, id) = (self.port, self.id);
        let controller_port = self.voters.iter().find(|voter| voter.id == id).map_or(0, |voter| voter.port);
        let voters: Vec<String> =
            self.voters.iter().map(|voter| format!("{}@127.0.0.1:{}", voter.id, voter.port)).collect();
        let voters = voters.join(",");
        // Three replicas and `min.insync.replicas` 2, as in production; fewer on fewer nodes.
        let replicas = self.voters.len().min(3);
        let in_sync = replicas.div_ceil(2);
        // Each partition maps two index files of the given size, and tests create thousands of partitions. Each size is
        // enough for the index of a whole segment.
        let (segment, index) = match self.durability {
            Durability::Full => (256 * 1024 * 1024, 1024 * 1024),
            Durability::Test => (64 * 1024 * 1024, 256 * 1024),
        };
        let listeners = match &self.security {
            Some(security) => secured::kafka_settings(security, port, controller_port),
            None => format!(
                "listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
                 listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
                 inter.broker.listener.name=PLAINTEXT\n"
            ),
        };
        format!(
            "process.roles=broker,controller\n\
             node.id={id}\n\
             controller.quorum.voters={voters}\n\
             controller.listener.names=CONTROLLER\n\
             {listeners}\
             log.dirs={}\n\
             log.segment.bytes={segment}\n\
             log.index.size.max.bytes={index}\n\
             default.replication.factor={replicas}\n\
             min.insync.replicas={in_sync}\n\
             offsets.topic.replication.factor={replicas}\n\
             transaction.state.log.replication.factor={replicas}\n\
             transaction.state.log.min.isr={in_sync}\n\
             share.coordinator.state.topic.replication.factor={replicas}\n\
             share.coordinator.state.topic.min.isr={in_sync}\n\
             {FIXED}",
            self.folder.join("data").display(),
        )
    }

    async fn format(&self) -> Result<(), Error> {
        let done = self.folder.join("formatted");
        if done.exists() {
            return files::give_to(&self.folder.join("data"), self.user.as_ref());
        }
        tracing::info!("Formatting Kafka's storage");
        let log = self.folder.join("format.out");
        let args = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-c", "server.properties", "-t"];
        let users = self.security.as_deref().map(secured::format_arguments).unwrap_or_default();
        let args = args.iter().copied().chain([self.cluster_id.as_str()]).chain(users.iter().map(String::as_str));
        let child = self.java(&["-Xmx128m", FIRST_COMPILER], args, &log).spawn()?;
        finished(&child, "Kafka's formatter", &log).await?;
        files::write(&done, &self.cluster_id, 0o644)
    }

    /// See `Stack::kafka_command`.
    pub(crate) async fn command(&self, class: &str, arguments: &[&str]) -> Result<String, Error> {
        let log = self.folder.join(format!("command-{}.out", uuid::Uuid::new_v4().simple()));
        let mut fixed = vec![class, "--bootstrap-server", &self.address];
        if self.security.is_some() {
            fixed.extend(["--command-config", secured::ADMIN_PROPERTIES]);
        }
        let args = fixed.into_iter().chain(arguments.iter().copied());
        let child = self.java(&["-Xmx128m", FIRST_COMPILER], args, &log).spawn()?;
        finished(&child, "Kafka's command", &log).await?;
        std::fs::read_to_string(&log).map_err(Error::io(format!("read {}", log.display())))
    }

    fn java<'a>(&'a self, tuning: &[&str], args: impl Iterator<Item = &'a str>, output: &'a Path) -> Launch<'a> {
        let fixed = [
            "-XX:+UseSerialGC",
            "-XX:-UsePerfData",
            "-XX:ErrorFile=logs/crash-%p.log",
            "-Djava.io.tmpdir=tmp",
            "-Dlog4j2.configurationFile=log4j2.xml",
            "-Xlog:disable",
            "-Xlog:all=warning:stderr:uptime,level,tags",
            "-cp",
            &self.class_path,
        ];
        let all = tuning.iter().copied().chain(fixed).map(OsString::from).chain(args.map(OsString::from));
        Launch {
            setpriv: &self.setpriv,
            program: self.java.path.clone(),
            args: all.collect(),
            folder: &self.folder,
            user: self.user.as_ref(),
            environment: None,
            death_signal: "KILL",
            output,
        }
    }

    pub(crate) fn spawn(&self) -> Result<Child, Error> {
        let tuning: &[&str] = match self.heap {
            Heap::Full => &["-Xms256m", "-Xmx1g"],
            Heap::Test => &["-Xms128m", "-Xmx384m", FIRST_COMPILER],
        };
        let args = ["kafka.Kafka", "server.properties"].into_iter();
        self.java(tuning, args, &self.folder.join("kafka.out")).spawn()
    }

    /// Waits until the broker answers: it is in its own metadata, and it describes its configuration. In a cluster, no
    /// node is ready before the majority runs.
    pub(crate) async fn ready(&self) -> Result<(), Error> {
        while tokio::net::TcpStream::connect(&self.address).await.is_err() {
            tokio::time::sleep(POLL).await;
        }
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address).set("client.id", "devstack");
        config.set("reconnect.backoff.ms", "10").set("reconnect.backoff.max.ms", "50");
        if let Some(security) = &self.security {
            config.extend(security.client_properties(&security.superuser));
        }
        config.set_log_level(RDKafkaLogLevel::Emerg);
        let admin: Arc<AdminClient<DefaultClientContext>> = Arc::new(config.create()?);
        while !is_registered(Arc::clone(&admin), self.id).await {
            tokio::time::sleep(POLL).await;
        }
        let options = AdminOptions::new().request_timeout(Some(CALL_TIMEOUT));
        while admin.describe_configs(&[ResourceSpecifier::Broker(self.id)], &options).await.is_err() {
            tokio::time::sleep(POLL).await;
        }
        // Closing a client waits for its threads.
        drop(tokio::task::spawn_blocking(move || drop(admin)).await);
        Ok(())
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Epoch and node id of the last active controller in the `quorum-state` file of this node.
    pub(crate) fn last_known_leader(&self) -> Option<(i64, i32)> {
        let path = self.folder.join("data/__cluster_metadata-0/quorum-state");
        leader_in(&std::fs::read_to_string(path).ok()?)
    }

    pub(crate) fn log_tail(&self) -> String {
        files::tail(&[&self.folder.join("kafka.out"), &self.folder.join("logs/kafka.log")])
    }
}

/// Waits until a program that prepares or administers Kafka has succeeded.
async fn finished(child: &Child, server: &'static str, log: &Path) -> Result<(), Error> {
    let Ok(status) = tokio::time::timeout(PROGRAM_DEADLINE, child.wait()).await else {
        child.signal_family(crate::Signal::KILL);
        return Err(Error::NotReady { server, seconds: PROGRAM_DEADLINE.as_secs(), log: files::tail(&[log]) });
    };
    if status.is_some_and(|status| status.success()) {
        return Ok(());
    }
    let status = status.map_or_else(|| "unknown status".into(), |status| status.to_string());
    Err(Error::Exited { server, status, log: files::tail(&[log]) })
}

async fn is_registered(admin: Arc<AdminClient<DefaultClientContext>>, id: i32) -> bool {
    let ask = move || {
        let seen = admin.inner().fetch_metadata(None, CALL_TIMEOUT);
        seen.is_ok_and(|seen| seen.brokers().iter().any(|broker| broker.id() == id))
    };
    tokio::task::spawn_blocking(ask).await.unwrap_or(false)
}

/// Epoch and leader in the text of a `quorum-state` file; `None` during an election.
fn leader_in(text: &str) -> Option<(i64, i32)> {
    let state: serde_json::Value = serde_json::from_str(text).ok()?;
    let leader = i32::try_from(state.get("leaderId")?.as_i64()?).ok()?;
    (leader > 0).then_some((state.get("leaderEpoch")?.as_i64()?, leader))
}

/// Settings of all nodes: fast start, fast detection of a dead member.
/// A killed broker can register again only after its old session has expired, so the session timeout is short.
/// The cleaner's default buffer of 128 MB does not fit a small heap.
const FIXED: &str = "\
offsets.topic.num.partitions=3
transaction.state.log.num.partitions=3
share.coordinator.state.topic.num.partitions=3
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=100
group.consumer.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=300
num.network.threads=2
num.io.threads=4
num.replica.fetchers=1
num.recovery.threads.per.data.dir=2
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=4194304
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_parsed_with_its_epoch() {
        let state = |leader: i32| format!(r#"{{"leaderId":{leader},"leaderEpoch":7,"votedId":-1,"data_version":1}}"#);
        assert_eq!(leader_in(&state(2)), Some((7, 2)));
        assert_eq!(leader_in(&state(-1)), None);
        assert_eq!(leader_in("half a fi"), None);
    }
}
