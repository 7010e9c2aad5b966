//! A real Apache Kafka (nodes that are broker and controller in one) and a real PostgreSQL as child processes of this
//! one: for `triggers up`, for tests and for load tests.
//!
//! `Stack` is one Kafka and one PostgreSQL; `Cluster` is several Kafka nodes, for those who want to see what happens
//! when some are lost; `Process` is any other program that must not outlive this one.
//!
//! What lives here: finding the tools, fetching the broker's jars, the data folder and its lock, starting, watching,
//! restarting and stopping the two servers, and what tests need on top (`testing`). What does not: topics, schema,
//! keys, or anything else of the product. This crate knows no other crate of the workspace.
//!
//! Both servers listen on 127.0.0.1 only. PostgreSQL asks for a generated password; Kafka has no password, so any
//! process of this machine may talk to it: it is meant for development and tests.

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
mod server;
mod stack;
pub mod testing;
pub mod tools;

pub use cluster::{Cluster, ClusterOptions};
pub use error::Error;
pub use options::{Data, Durability, Heap, Options};
pub use process::{Process, Program};
pub use rustix::process::Signal;
pub use server::Server;
pub use stack::Stack;

/// The Kafka release that is started.
#[must_use]
pub fn kafka_version() -> &'static str {
    jars::kafka_version()
}

/// A port on 127.0.0.1 that was free a moment ago and that the system gives to no outgoing connection, so that a server
/// which is started again finds it free again.
pub fn free_port() -> Result<u16, Error> {
    ports::free()
}

/// Fetches the broker's jars into the cache unless they are there, and returns the folder that holds them.
///
/// # Errors
/// When Java or Maven is missing, or Maven could not fetch.
pub async fn fetch() -> Result<std::path::PathBuf, Error> {
    // Maven without Java would fail with words of its own.
    tools::java()?;
    Ok(jars::ensure().await?.folder)
}
