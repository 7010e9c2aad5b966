//! The binary `devstack` as a child of the test, and a look at the processes below it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use devstack::Signal;
use devstack::testing::eventually;
use rustix::process::{Pid, kill_process};

/// `devstack run`, ready.
pub struct Running {
    pub child: Child,
    pub brokers: String,
    pub database_url: String,
    pub data_dir: PathBuf,
}

impl Running {
    /// Starts it on a folder, or on a temporary one, and waits for its addresses.
    pub fn start(data_dir: Option<&Path>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_devstack"));
        command.arg("run").stdout(Stdio::piped());
        data_dir.into_iter().for_each(|folder| {
            command.arg("--data-dir").arg(folder);
        });
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut value = |name: &str| {
            let line = lines.next().expect("devstack ended before it was ready").unwrap();
            line.strip_prefix(name).expect(name).to_owned()
        };
        let brokers = value("KAFKA_BROKERS=");
        let database_url = value("DATABASE_URL=");
        let data_dir = value("DATA_DIR=").into();
        Self { child, brokers, database_url, data_dir }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Java, PostgreSQL's first process and its backends, each with its name.
    pub fn servers(&self) -> Vec<(u32, String)> {
        let servers = family(self.child.id());
        let named = |name: &str| servers.iter().filter(|(_, comm)| comm == name).count();
        assert_eq!(named("java"), 1, "{servers:?}");
        assert!(named("postgres") > 3, "{servers:?}");
        servers.into_iter().filter(|(_, comm)| comm == "java" || comm == "postgres").collect()
    }
}

/// All descendants of a process.
fn family(root: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let Some((comm, _, ppid)) = status(pid) else { continue };
            if ppid == parent {
                found.push((pid, comm));
                parents.push(pid);
            }
        }
    }
    found
}

/// Name, state and parent of a process.
fn status(pid: u32) -> Option<(String, char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, rest) = stat.rsplit_once(')')?;
    let comm = head.split_once('(')?.1.to_owned();
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((comm, state, fields.next()?.parse().ok()?))
}

/// Waits until none of the processes runs; one that is dead and not yet collected by its parent does not run.
pub async fn gone(processes: &[(u32, String)]) {
    let alive = |(pid, comm): &&(u32, String)| status(*pid).is_some_and(|(name, state, _)| name == *comm && state != 'Z');
    eventually(Duration::from_secs(10), "no server is left", || async {
        if processes.iter().any(|process| alive(&process)) { None } else { Some(()) }
    })
    .await;
}
