//! Why a stack could not start or was lost. Every variant is one sentence for a person; none is worth a blind retry.

use std::io;
use std::path::PathBuf;

/// Why a stack could not be started, or why it gave up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program of the system is not there.
    #[error("{tool} was not found; on Debian or Ubuntu it is in the package `{package}`")]
    MissingTool {
        /// What was looked for.
        tool: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program of the system is there, but of no use.
    #[error("{0}")]
    UnusableTool(String),
    /// Maven did not bring the jars.
    #[error("fetching the jars of Kafka failed: {0}")]
    Fetch(String),
    /// Another process runs on this data folder.
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
        /// What does not fit, and what to do.
        problem: String,
    },
    /// Somebody else listens on the port.
    #[error("port {port} on 127.0.0.1, wanted for {server}, is already in use by another program")]
    PortInUse {
        /// `Kafka` or `PostgreSQL`.
        server: &'static str,
        port: u16,
    },
    /// The disk is too full to begin.
    #[error("the disk of {} has {free_mib} MiB free, and {needed_mib} MiB are needed to start", path.display())]
    DiskFull {
        path: PathBuf,
        /// What is free, in MiB.
        free_mib: u64,
        /// What is needed, in MiB.
        needed_mib: u64,
    },
    /// A process of an earlier run does not end.
    #[error("process {pid} of an earlier run still uses {} and does not end", path.display())]
    Leftover {
        pid: u32,
        /// The folder it works in.
        path: PathBuf,
    },
    /// A server ended while it was being started or used.
    #[error("{server} ended ({status}); its last words: {log}")]
    Exited {
        /// `Kafka`, `PostgreSQL` or one of their set-up programs.
        server: &'static str,
        status: String,
        /// The end of its log, on one line, with the log's path.
        log: String,
    },
    /// A server runs but does not answer.
    #[error("{server} did not answer within {seconds} s; its last words: {log}")]
    NotReady {
        /// `Kafka` or `PostgreSQL`.
        server: &'static str,
        /// How long it was given.
        seconds: u64,
        /// The end of its log, on one line, with the log's path.
        log: String,
    },
    /// The stack was started without this server.
    #[error("this stack has no {0} of its own")]
    NotOurs(&'static str),
    /// A file or process operation failed.
    #[error("cannot {action}: {source}")]
    Io {
        action: String,
        /// What the system said.
        source: io::Error,
    },
    /// A statement on our own PostgreSQL failed.
    #[error("PostgreSQL: {0}")]
    Sql(#[from] sqlx::Error),
    /// A call to our own Kafka failed.
    #[error("Kafka: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
}

impl Error {
    /// Names what was tried when `source` came up.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
