//! A real Apache Kafka (one node, broker and controller in one) and a real PostgreSQL as child processes of this one:
//! for `triggers up`, for tests and for load tests.
//!
//! What lives here: finding the tools, fetching the broker's jars, the data folder and its lock, starting, watching,
//! restarting and stopping the two servers, and what tests need on top (`testing`).
//! What does not: topics, schema, keys, or anything else of the product. This crate knows no other crate of the workspace.
//!
//! Both servers listen on 127.0.0.1 only. PostgreSQL asks for a generated password; Kafka has no password, so any process
//! of this machine may talk to it: it is meant for development and tests.

mod child;
mod datadir;
mod error;
mod files;
mod jars;
mod kafka;
mod options;
mod ports;
mod postgres;
mod server;
mod stack;
pub mod testing;
pub mod tools;

pub use error::Error;
pub use options::{Data, Durability, Heap, Options};
pub use rustix::process::Signal;
pub use stack::Stack;

/// Fetches the broker's jars into the cache unless they are there, and returns the folder that holds them.
///
/// # Errors
/// When Java or Maven is missing, or Maven could not fetch.
pub async fn fetch() -> Result<std::path::PathBuf, Error> {
    // Maven without Java would fail with words of its own.
    tools::java()?;
    Ok(jars::ensure().await?.folder)
}
