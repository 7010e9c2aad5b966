//! The process of a peer: a program that prints `PORT VERSION` when it is ready, with all processes that it starts.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::eventually::eventually;

/// Timeout for the start. The first start of a peer downloads or builds it.
const START_TIMEOUT: Duration = Duration::from_secs(20 * 60);
/// Timeout for the first connection after it has printed its port.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between SIGTERM and SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A running peer. When dropped, all its processes are killed.
pub(super) struct PeerProcess {
    /// The port that it listens on; 0 for a peer that does not listen.
    pub port: u16,
    pub version: Option<String>,
    pub pid: u32,
    child: Child,
    group: ProcessGroup,
}

/// The processes of a peer; killed when dropped.
struct ProcessGroup(Option<Pid>);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Fails when none is left.
            kill_process_group(group, Signal::KILL).ok();
        }
    }
}

impl PeerProcess {
    /// Starts `program` with `argument` and `settings` in its environment, and waits for its line.
    pub(super) async fn start(program: &Path, argument: &str, settings: &[(&str, String)]) -> anyhow::Result<Self> {
        let name = program.display();
        eprintln!("starting {name}");
        let mut child = Command::new(program)
            .arg(argument)
            .envs(settings.iter().map(|(name, value)| (name, value)))
            // Closed when this process ends, in whatever way. The peer stops then.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let pid = child.id().context("a new process has an id")?;
        let group = ProcessGroup(i32::try_from(pid).ok().and_then(Pid::from_raw));
        let mut lines = BufReader::new(child.stdout.take().context("a new process has an output")?).lines();
        let line = tokio::time::timeout(START_TIMEOUT, lines.next_line());
        let line = line.await.with_context(|| format!("{name} did not print its port within {START_TIMEOUT:?}"))?;
        let Some(line) = line.with_context(|| format!("reading the output of {name}"))? else {
            // It may have closed its output without ending.
            match tokio::time::timeout(STOP_TIMEOUT, child.wait()).await {
                Ok(status) => bail!("{name} ended before it printed its port: {}", status?),
                Err(_) => bail!("{name} closed its output before it printed its port"),
            }
        };
        let Some((port, version)) = parse(&line) else { bail!("{name} printed `{line}` instead of PORT VERSION") };
        // Read on, because a program that writes into a closed pipe is killed.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { port, version, pid, child, group })
    }

    /// Waits until the port accepts connections.
    pub(super) async fn wait_until_it_answers(&self) -> anyhow::Result<()> {
        let what = format!("the peer listens on 127.0.0.1:{}, the port that it printed", self.port);
        let connect = async || Ok(TcpStream::connect(("127.0.0.1", self.port)).await.ok().map(drop));
        eventually(Duration::from_millis(50), ANSWER_TIMEOUT, &what, connect).await
    }

    /// Stops all its processes: SIGTERM, then SIGKILL for those that are left. Fails if it had ended before.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait().context("looking at the peer")? {
            bail!("the peer ended while it was measured: {status}");
        }
        if let Some(group) = self.group.0 {
            kill_process_group(group, Signal::TERM).context("stopping the peer")?;
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            eprintln!("the peer did not stop within {STOP_TIMEOUT:?}; killing it");
        }
        drop(self.group);
        self.child.wait().await.context("waiting for the peer")?;
        Ok(())
    }
}

/// Port and version in `PORT VERSION`.
fn parse(line: &str) -> Option<(u16, Option<String>)> {
    let (port, version) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    Some((port.parse().ok()?, Some(version.trim().to_owned()).filter(|version| !version.is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_port_and_perhaps_a_version() {
        assert_eq!(parse("8080"), Some((8080, None)));
        assert_eq!(parse(" 0 Apache Camel 4 \n"), Some((0, Some("Apache Camel 4".to_owned()))));
        assert_eq!(parse("ready"), None);
        assert_eq!(parse("70000 x"), None);
    }
}
