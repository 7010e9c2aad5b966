//! Bare loops: minimal servers that are measured by the same generator, for comparison with the product.
//!
//! The loop is a separate process of this binary, so that its CPU is not counted for the generator. Its request handler
//! is in `server`, its topic in `topic`.

pub(crate) mod server;
pub(crate) mod topic;

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use loadkit::{Failure, RunEnvironment};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::figures::Figures;
use crate::generator::Generator;
use crate::organizations::Organization;
use crate::process_usage::{Component, listener};
use crate::report::Report;
use crate::request::Requests;
use crate::scenario::{Load, Thresholds};
use crate::session;
use crate::target::{Address, port_of};

/// Timeout for the start of the process.
const START_BUDGET: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub(crate) enum Loop {
    /// Parses the JSON and answers.
    Http,
    /// The same, and answers after Kafka has confirmed the record.
    Produce { brokers: String, linger_ms: u32, zstd: bool },
}

impl Loop {
    /// Its name in reports.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Http => "bare-http",
            Self::Produce { zstd: false, .. } => "bare-produce",
            Self::Produce { zstd: true, .. } => "bare-produce-zstd",
        }
    }
}

/// Runs `load` against the loop.
pub(crate) async fn run(
    bare: &Loop,
    load: Load,
    thresholds: &Thresholds,
    server_threads: usize,
) -> Result<Report, Failure> {
    let environment = RunEnvironment::detect();
    let topic = match bare {
        Loop::Http => None,
        Loop::Produce { brokers, zstd, .. } => Some(topic::Topic::create(brokers, "bare", *zstd).await?),
    };
    let measured = measure(bare, topic.as_ref(), load, server_threads).await;
    // Also after a failure: a run leaves nothing on the broker.
    if let Some(topic) = topic {
        topic.delete().await?;
    }
    let (figures, rows) = measured?;
    let checks = figures.check(thresholds);
    let passed = checks.iter().all(|check| check.passed);
    Ok(Report { name: bare.name().to_owned(), environment, figures, checks, passed, rows })
}

async fn measure(
    bare: &Loop,
    topic: Option<&topic::Topic>,
    load: Load,
    server_threads: usize,
) -> anyhow::Result<(Figures, Vec<session::Row>)> {
    let (mut child, port) = start(bare, topic.map(|topic| topic.name.as_str()), server_threads).await?;
    let mut components = vec![Component { name: "generator".to_owned(), pid: std::process::id() }];
    components.extend(child.id().map(|pid| Component { name: "server".to_owned(), pid }));
    if let Loop::Produce { brokers, .. } = bare
        && let Some(pid) = port_of(brokers).and_then(listener)
    {
        components.push(Component { name: "kafka".to_owned(), pid });
    }
    let address = Address { authority: format!("127.0.0.1:{port}"), path: String::new(), port };
    // As long as real keys, so that the requests have a realistic size.
    let organizations: Vec<Organization> = (0..load.organizations)
        .map(|number| Organization { id: Uuid::nil(), key: format!("zap_test_{number:055}") })
        .collect();
    let requests = Requests::new(&address, &organizations, &load, "bare");
    let generator = Generator::start(load, address.authority.clone(), requests, None).await?;
    let session = session::watch(generator, &load, &components).await?;
    child.kill().await.context("stopping the bare loop")?;
    Ok((Figures::of(&load, &session), session.rows))
}

/// Starts the loop. It stops with this process, because its standard input is closed then.
async fn start(bare: &Loop, topic: Option<&str>, server_threads: usize) -> anyhow::Result<(Child, u16)> {
    let mut command = Command::new(std::env::current_exe().context("finding this binary")?);
    command.args(["bare-server", "--threads", &server_threads.to_string()]);
    if let (Loop::Produce { brokers, linger_ms, zstd }, Some(topic)) = (bare, topic) {
        command.args(["--brokers", brokers, "--topic", topic, "--linger-ms", &linger_ms.to_string()]);
        command.args(zstd.then_some("--zstd"));
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting the bare loop")?;
    let stdout = child.stdout.take().context("the bare loop has no standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(START_BUDGET, lines.next_line()).await.context("the bare loop did not start")?;
    let port = line
        .context("the bare loop exited")?
        .and_then(|line| line.parse().ok())
        .context("the bare loop printed no port")?;
    Ok((child, port))
}
