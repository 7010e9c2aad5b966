//! Options of a stack.

use std::path::PathBuf;

/// Where the servers keep their data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// This folder; created if missing, and kept after the stop for the next start.
    Folder(PathBuf),
    /// A folder in the system's temporary folder, removed when the stack stops or this process dies.
    Ephemeral,
}

/// What survives a power cut. A killed process loses nothing in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// PostgreSQL syncs each commit to the disk.
    Full,
    /// PostgreSQL never syncs: fast, but a power cut may corrupt the data.
    Test,
}

/// How much memory Kafka's JVM may take, and how it is tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heap {
    /// 1 GiB, serial collector, all compilers.
    Full,
    /// 384 MiB, serial collector, first compiler tier only: for a fast start on a small machine.
    Test,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub data: Data,
    pub kafka: bool,
    pub postgres: bool,
    /// Kafka's port on 127.0.0.1; 0 takes a free one.
    pub kafka_port: u16,
    /// PostgreSQL's port on 127.0.0.1; 0 takes a free one.
    pub postgres_port: u16,
    pub durability: Durability,
    pub heap: Heap,
}

impl Options {
    /// Both servers on free ports, in a temporary folder, tuned for a fast start.
    #[must_use]
    pub fn test() -> Self {
        Self {
            data: Data::Ephemeral,
            durability: Durability::Test,
            heap: Heap::Test,
            ..Self::persistent(PathBuf::new())
        }
    }

    /// Both servers on free ports, with full durability, on a folder that is kept.
    #[must_use]
    pub fn persistent(folder: impl Into<PathBuf>) -> Self {
        Self {
            data: Data::Folder(folder.into()),
            kafka: true,
            postgres: true,
            kafka_port: 0,
            postgres_port: 0,
            durability: Durability::Full,
            heap: Heap::Full,
        }
    }
}
