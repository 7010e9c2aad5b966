//! `devstack`: a temporary Kafka and PostgreSQL around a command (`exec`), or until Ctrl-C (`run`).

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use devstack::testing::{DATABASE_VARIABLE, KAFKA_VARIABLE};
use devstack::{Options, Signal, Stack};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// How long the command may take to exit after SIGTERM.
const COMMAND_GRACE: Duration = Duration::from_secs(10);

/// Starts a real Kafka and a real PostgreSQL for tests and development.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run a command with TRIGGERS_TEST_KAFKA and TRIGGERS_TEST_DATABASE set, and exit with its exit code.
    Exec {
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Start both servers and print their addresses until Ctrl-C.
    Run {
        /// Keep the data in this folder, with full durability; without it the data is temporary.
        #[arg(long)]
        data_dir: Option<PathBuf>,
        /// Port of Kafka on 127.0.0.1; 0 takes a free one.
        #[arg(long, default_value_t = 0)]
        kafka_port: u16,
        /// Port of PostgreSQL on 127.0.0.1; 0 takes a free one.
        #[arg(long, default_value_t = 0)]
        postgres_port: u16,
    },
    /// Fetch the jars of Kafka into the cache and print the folder.
    Fetch,
    /// Check for the required tools.
    Check,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,devstack=info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(std::io::stderr).init();
    let result = match Arguments::parse().action {
        Action::Exec { command } => exec(&command).await,
        Action::Run { data_dir, kafka_port, postgres_port } => {
            let options = data_dir.map_or_else(Options::test, Options::persistent);
            run(Options { kafka_port, postgres_port, ..options }).await
        }
        Action::Fetch => devstack::fetch().await.map_err(Into::into).map(|folder| {
            println!("{}", folder.display());
            ExitCode::SUCCESS
        }),
        Action::Check => Ok(check()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("devstack: {error:#}");
        ExitCode::FAILURE
    })
}

async fn exec(command: &[OsString]) -> anyhow::Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no command given")?;
    let mut stop = StopSignals::new()?;
    let stack = tokio::select! {
        stack = Stack::start(Options::test()) => stack?,
        code = stop.received() => return Ok(code),
    };
    let spawned = Command::new(program)
        .args(arguments)
        .env(KAFKA_VARIABLE, stack.kafka_brokers())
        .env(DATABASE_VARIABLE, stack.database_url())
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()));
    let code = match spawned {
        Ok(child) => wait_for(child, &stack, &mut stop).await,
        Err(error) => Err(error),
    };
    stack.stop().await;
    code
}

/// Waits for the command; stops it on a stop signal or when a server has failed.
async fn wait_for(mut child: Child, stack: &Stack, stop: &mut StopSignals) -> anyhow::Result<ExitCode> {
    let code = tokio::select! {
        status = child.wait() => return Ok(exit_code(status?)),
        code = stop.received() => code,
        reason = stack.failed() => {
            eprintln!("devstack: {reason}");
            ExitCode::FAILURE
        }
    };
    let pid = child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(pid) = pid {
        // The only possible error is that it has just exited.
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(COMMAND_GRACE, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(code)
}

async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let mut stop = StopSignals::new()?;
    let stack = tokio::select! {
        stack = Stack::start(options) => stack?,
        code = stop.received() => return Ok(code),
    };
    println!("KAFKA_BROKERS={}", stack.kafka_brokers());
    println!("DATABASE_URL={}", stack.database_url());
    println!("DATA_DIR={}", stack.data_dir().display());
    let code = tokio::select! {
        _ = stop.received() => ExitCode::SUCCESS,
        reason = stack.failed() => {
            eprintln!("devstack: {reason}");
            ExitCode::FAILURE
        }
    };
    stack.stop().await;
    Ok(code)
}

fn check() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for check in devstack::tools::check_all() {
        match check.found {
            Ok(found) => println!("{}: {found}", check.tool),
            Err(error) => {
                println!("{}: {error}", check.tool);
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// The exit code that a shell reports: 128 plus the signal number for a killed command.
fn exit_code(status: std::process::ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// SIGINT and SIGTERM.
struct StopSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn received(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.interrupt.recv() => ExitCode::from(130),
            _ = self.terminate.recv() => ExitCode::from(143),
        }
    }
}
