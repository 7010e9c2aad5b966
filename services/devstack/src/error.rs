//! Errors of a stack. Each text is one sentence for a person; a retry without a change does not help.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not installed.
    #[error("{tool} was not found; on Debian or Ubuntu it is in the package `{package}`")]
    MissingTool {
        tool: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program is installed but cannot be used.
    #[error("{0}")]
    UnusableTool(String),
    /// Maven did not fetch the jars.
    #[error("fetching the jars of Kafka failed: {0}")]
    Fetch(String),
    /// A jar is not the one that this version was built for.
    #[error(
        "{name} in {} has another SHA-256 than deploy/kafka/jars.sha256 lists, so it is not run; delete the folder to \
         fetch the jars again", folder.display()
    )]
    WrongJar {
        /// File name.
        name: String,
        folder: PathBuf,
    },
    /// Another process uses this data folder.
    #[error("the data folder {} is in use by {holder}", path.display())]
    InUse {
        path: PathBuf,
        /// The process that holds it, with its ports if it has written them.
        holder: String,
    },
    /// The data folder was written by a version that this one cannot open.
    #[error("the data folder {} {problem}", path.display())]
    Version {
        path: PathBuf,
        /// The mismatch, and what to do.
        problem: String,
    },
    /// Another program listens on the port.
    #[error("port {port} on 127.0.0.1, wanted for {server}, is already in use by another program")]
    PortInUse {
        /// `Kafka` or `PostgreSQL`.
        server: &'static str,
        port: u16,
    },
    /// The disk is too full to start.
    #[error("the disk of {} has {free_mib} MiB free, and {needed_mib} MiB are needed to start", path.display())]
    DiskFull { path: PathBuf, free_mib: u64, needed_mib: u64 },
    /// A process of an earlier run does not exit.
    #[error("process {pid} of an earlier run still uses {} and does not exit; kill it", path.display())]
    Leftover {
        pid: u32,
        /// The folder it works in.
        path: PathBuf,
    },
    /// A server exited while it was being started or used.
    #[error("{server} exited ({status}); end of its log: {log}")]
    Exited {
        /// `Kafka`, `PostgreSQL` or one of their set-up programs.
        server: &'static str,
        status: String,
        /// The end of its log, on one line, with the log's path.
        log: String,
    },
    /// A server runs but does not answer.
    #[error("{server} did not answer within {seconds} s; end of its log: {log}")]
    NotReady {
        /// `Kafka` or `PostgreSQL`.
        server: &'static str,
        seconds: u64,
        /// The end of its log, on one line, with the log's path.
        log: String,
    },
    /// The stack was started without this server.
    #[error("this stack was started without {0}")]
    NotOurs(&'static str),
    /// A file or process operation failed.
    #[error("cannot {action}: {source}")]
    Io { action: String, source: io::Error },
    /// A statement on our own PostgreSQL failed.
    #[error("PostgreSQL: {0}")]
    Sql(#[from] sqlx::Error),
    /// A call to our own Kafka failed.
    #[error("Kafka: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
}

impl Error {
    /// `action`: what failed with `source`.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
