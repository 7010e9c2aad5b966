//! The processes of a bare loop. They stop with this process, because their standard input is closed then.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::{Loop, writer};
use crate::process_usage::Component;

/// Timeout for the start of a process.
const START_BUDGET: Duration = Duration::from_secs(20);

pub(super) struct Loops {
    /// Where the server listens.
    pub(super) port: u16,
    processes: Vec<(&'static str, Child)>,
}

impl Loops {
    /// Starts the server of `bare`, and the writer of the pipeline.
    pub(super) async fn start(bare: &Loop, topic: Option<&str>, server_threads: usize) -> anyhow::Result<Self> {
        let binary = std::env::current_exe().context("finding this binary")?;
        let mut server = Command::new(&binary);
        server.args(["bare-server", "--threads", &server_threads.to_string()]);
        if let (Some(produce), Some(topic)) = (bare.produce(), topic) {
            server.args(["--brokers", &produce.brokers, "--topic", topic]);
            server.args(["--linger-ms", &produce.linger_ms.to_string()]);
            server.args(produce.zstd.then_some("--zstd"));
        }
        let mut processes = Vec::new();
        if let (Loop::Pipeline { produce, database_url }, Some(topic)) = (bare, topic) {
            server.arg("--pipeline");
            let mut second = Command::new(&binary);
            second.args(["bare-writer", "--brokers", &produce.brokers, "--topic", topic]);
            second.env(writer::DATABASE_URL, database_url);
            processes.push(("writer", start(second).await?.0));
        }
        let (server, port) = start(server).await?;
        processes.push(("server", server));
        Ok(Self { port, processes })
    }

    pub(super) fn components(&self) -> impl Iterator<Item = Component> {
        self.processes.iter().filter_map(|(name, child)| Some(Component::new(name, child.id()?)))
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        for (_, mut child) in self.processes {
            child.kill().await.context("stopping the bare loop")?;
        }
        Ok(())
    }
}

/// Starts one process, and reads the number that it prints when it is ready.
async fn start(mut command: Command) -> anyhow::Result<(Child, u16)> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting the bare loop")?;
    let stdout = child.stdout.take().context("the bare loop has no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(START_BUDGET, lines.next_line()).await.context("the bare loop did not start")?;
    let number = line
        .context("the bare loop exited")?
        .and_then(|line| line.parse().ok())
        .context("the bare loop printed no port")?;
    Ok((child, number))
}
