//! The binary `devstack` as a child of the test.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use devstack::Signal;
use devstack::testing::processes;
use rustix::process::{Pid, kill_process};

/// A variable of the process that starts the servers.
pub(crate) const SECRET: &str = "OPERATOR_TOKEN_OF_A_TEST";

/// A running `devstack run` whose servers are ready.
pub(crate) struct Running {
    pub child: Child,
    pub brokers: String,
    pub database_url: String,
    pub data_dir: PathBuf,
}

impl Running {
    /// Starts it on a folder, or on a temporary one, and waits for its addresses.
    pub(crate) fn start(data_dir: Option<&Path>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_devstack"));
        command.arg("run").stdout(Stdio::piped()).env(SECRET, "in the environment of the caller");
        data_dir.into_iter().for_each(|folder| {
            command.arg("--data-dir").arg(folder);
        });
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut value = |name: &str| {
            let line = lines.next().expect("devstack exited before it was ready").unwrap();
            line.strip_prefix(name).expect(name).to_owned()
        };
        let brokers = value("KAFKA_BROKERS=");
        let database_url = value("DATABASE_URL=");
        let data_dir = value("DATA_DIR=").into();
        Self { child, brokers, database_url, data_dir }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Java, PostgreSQL's first process and its backends, each with its name.
    pub(crate) fn servers(&self) -> Vec<(u32, String)> {
        let servers = processes::descendants(self.child.id());
        let named = |name: &str| servers.iter().filter(|(_, comm)| comm == name).count();
        assert_eq!(named("java"), 1, "{servers:?}");
        assert!(named("postgres") > 3, "{servers:?}");
        servers.into_iter().filter(|(_, comm)| comm == "java" || comm == "postgres").collect()
    }
}
