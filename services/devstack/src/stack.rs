//! Kafka and PostgreSQL on one data folder, started and stopped together.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::{JoinHandle, spawn_blocking};

use crate::datadir::DataDir;
use crate::kafka::{Kafka, Settings, Voter};
use crate::options::{Data, Options};
use crate::postgres::Postgres;
use crate::server::{Program, Server};
use crate::tools::{self, User};
use crate::{Error, jars, ports};

/// A running Kafka and PostgreSQL, or one of them. Dropping it kills them; `stop` stops them gracefully.
///
/// They die with this process. A server that exits unexpectedly is restarted, a bounded number of times.
pub struct Stack {
    kafka: Option<Arc<Server>>,
    postgres: Option<Arc<Server>>,
    supervisors: Vec<JoinHandle<()>>,
    folder: DataDir,
    ephemeral: bool,
}

impl Stack {
    /// Starts the servers, and returns when all of them answer.
    ///
    /// Must be called within a tokio runtime, which also supervises the servers.
    ///
    /// # Errors
    /// A missing tool, a folder in use or of another version, a port in use, a full disk, or a server that did not
    /// start.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let started = Instant::now();
        let user = tools::server_user()?;
        // Reports a missing tool before anything is created.
        tools::setpriv()?;
        let (data, owner) = (options.data.clone(), user.clone());
        let mut folder = blocking(move || DataDir::open(&data, owner.as_ref())).await?;
        let (kafka, postgres) = tokio::try_join!(
            start_kafka(&options, &folder, user.as_ref()),
            start_postgres(&options, &folder, user.as_ref()),
        )?;
        let major = postgres.as_ref().and_then(|server| match &server.program {
            Program::Postgres(postgres) => Some(postgres.major()),
            Program::Kafka(_) => None,
        });
        folder.record_versions(kafka.as_ref().map(|_| jars::kafka_version().to_owned()), major)?;
        let supervisors = [&kafka, &postgres]
            .into_iter()
            .flatten()
            .map(|server| tokio::spawn(Arc::clone(server).supervise()))
            .collect();
        let mut stack = Self { kafka, postgres, supervisors, folder, ephemeral: options.data == Data::Ephemeral };
        let holder = stack.describe();
        stack.folder.describe(&holder)?;
        tracing::debug!(seconds = started.elapsed().as_secs_f32(), "Stack is ready");
        Ok(stack)
    }

    fn describe(&self) -> String {
        let kafka = self.kafka.as_ref().map(|_| format!(", Kafka on {}", self.kafka_brokers()));
        let postgres = self.postgres.as_ref().and_then(|server| match &server.program {
            Program::Postgres(postgres) => Some(format!(", PostgreSQL on 127.0.0.1:{}", postgres.port())),
            Program::Kafka(_) => None,
        });
        format!("process {}{}{}", std::process::id(), kafka.unwrap_or_default(), postgres.unwrap_or_default())
    }

    /// `host:port` of Kafka, as librdkafka's `bootstrap.servers` takes it; empty if this stack has no Kafka.
    #[must_use]
    pub fn kafka_brokers(&self) -> &str {
        match self.kafka.as_ref().map(|server| &server.program) {
            Some(Program::Kafka(kafka)) => kafka.address(),
            _ => "",
        }
    }

    /// The URL of the database `triggers`, with its password; empty if this stack has no PostgreSQL.
    /// The role may create databases.
    #[must_use]
    pub fn database_url(&self) -> String {
        match self.postgres.as_ref().map(|server| &server.program) {
            Some(Program::Postgres(postgres)) => postgres.main_url(),
            _ => String::new(),
        }
    }

    /// Runs a class of Kafka's command line as the superuser, with `--bootstrap-server` and `--command-config` before
    /// `arguments`, and returns what it printed.
    ///
    /// # Errors
    /// When this stack has no Kafka, or the command fails.
    pub async fn kafka_command(&self, class: &str, arguments: &[&str]) -> Result<String, Error> {
        match self.kafka.as_ref().map(|server| &server.program) {
            Some(Program::Kafka(kafka)) => kafka.command(class, arguments).await,
            _ => Err(Error::NotOurs("Kafka")),
        }
    }

    /// The folder with the data and the servers' logs.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.folder.root()
    }

    /// # Errors
    /// When this stack has no Kafka.
    pub fn kafka(&self) -> Result<&Server, Error> {
        self.kafka.as_deref().ok_or(Error::NotOurs("Kafka"))
    }

    /// # Errors
    /// When this stack has no PostgreSQL.
    pub fn postgres(&self) -> Result<&Server, Error> {
        self.postgres.as_deref().ok_or(Error::NotOurs("PostgreSQL"))
    }

    /// Waits until a server has exited too often to be restarted, and returns which and why. Otherwise never returns.
    pub async fn failed(&self) -> String {
        let failed = async |server: &Option<Arc<Server>>| match server {
            Some(server) => server.failed().await,
            None => std::future::pending().await,
        };
        tokio::select! {
            reason = failed(&self.kafka) => reason,
            reason = failed(&self.postgres) => reason,
        }
    }

    /// Stops Kafka, then PostgreSQL, each within 20 s, and removes a temporary folder.
    pub async fn stop(self) {
        // The data of a temporary server is removed, so it needs no graceful stop: `Drop` kills it.
        if !self.ephemeral {
            for server in [&self.kafka, &self.postgres].into_iter().flatten() {
                server.stop().await;
            }
        }
        // Dropping blocks: it waits for processes and removes files.
        drop(spawn_blocking(move || drop(self)).await);
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.supervisors.iter().for_each(JoinHandle::abort);
        for server in [&self.kafka, &self.postgres].into_iter().flatten() {
            server.abort_blocking();
        }
        if let Err(error) = self.folder.close() {
            tracing::warn!("{error}");
        }
    }
}

async fn start_kafka(options: &Options, folder: &DataDir, user: Option<&User>) -> Result<Option<Arc<Server>>, Error> {
    if !options.kafka {
        return Ok(None);
    }
    folder.check_kafka(jars::kafka_version())?;
    let java = blocking(tools::java).await?;
    let jars = jars::ensure().await?;
    let settings = Settings {
        folder: folder.server("kafka"),
        user,
        cluster_id: &folder.record().cluster_id,
        id: 1,
        port: ports::choose("Kafka", options.kafka_port)?,
        voters: vec![Voter { id: 1, port: ports::free()? }],
        durability: options.durability,
        heap: options.heap,
        security: options.security.clone(),
    };
    let kafka = Kafka::prepare(settings, java, &jars).await?;
    start(Program::Kafka(kafka)).await
}

pub(crate) async fn start_postgres(
    options: &Options,
    folder: &DataDir,
    user: Option<&User>,
) -> Result<Option<Arc<Server>>, Error> {
    if !options.postgres {
        return Ok(None);
    }
    let wanted = folder.record().postgres_major;
    let binaries = blocking(move || tools::postgres(wanted)).await?;
    folder.check_postgres(binaries.major)?;
    let port = ports::choose("PostgreSQL", options.postgres_port)?;
    let postgres = Postgres::prepare(binaries, folder.server("postgres"), user, port, options).await?;
    start(Program::Postgres(postgres)).await
}

async fn start(program: Program) -> Result<Option<Arc<Server>>, Error> {
    let server = Server::new(program);
    server.start().await?;
    Ok(Some(Arc::new(server)))
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work).await.map_err(|error| Error::io("run a blocking step")(std::io::Error::other(error)))?
}
