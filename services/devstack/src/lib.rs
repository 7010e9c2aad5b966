//! A real Apache Kafka (nodes that are broker and controller in one) and a real PostgreSQL as child processes of this
//! one: for `triggers up`, for tests and for load tests.
//!
//! `Stack` is one Kafka and one PostgreSQL; `Cluster` is several Kafka nodes and one PostgreSQL, for tests of failures;
//! `Process` is any other program that must not outlive this one.
//!
//! Here: finding the tools, fetching the broker's jars, the data folder and its lock, starting, supervising, restarting
//! and stopping the servers, and helpers for tests (`testing`). Topics, schema, keys and the rest of the product are
//! elsewhere: this crate depends on no other crate of the workspace.
//!
//! Both servers listen on 127.0.0.1 only. PostgreSQL requires a generated password; Kafka has none (but with
//! `Options::security`), so any process on this machine can connect to it. Use it for development and tests only, on a
//! machine that nobody else uses.

mod child;
mod cluster;
mod datadir;
mod disk;
mod error;
mod files;
mod jars;
mod kafka;
mod options;
mod ports;
mod postgres;
mod process;
mod secured;
mod server;
mod stack;
pub mod testing;
pub mod tools;

pub use cluster::{Cluster, ClusterOptions};
pub use error::Error;
pub use options::{Data, Durability, Heap, KafkaUser, Options, Security};
pub use process::{Process, Program};
pub use rustix::process::Signal;
pub use server::Server;
pub use stack::Stack;

/// The Kafka release that is started.
#[must_use]
pub fn kafka_version() -> &'static str {
    jars::kafka_version()
}

/// A port on 127.0.0.1 that was just free and is outside the range of outgoing connections, so that it is still free
/// when a server is restarted.
pub fn free_port() -> Result<u16, Error> {
    ports::free()
}

/// Fetches the broker's jars into the cache if they are missing, and returns their folder.
///
/// # Errors
/// When Java or Maven is missing, or Maven could not fetch.
pub async fn fetch() -> Result<std::path::PathBuf, Error> {
    // Checked first, because Maven without Java fails with a different error.
    tools::java()?;
    Ok(jars::ensure().await?.folder)
}
