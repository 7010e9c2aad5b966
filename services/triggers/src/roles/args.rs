//! Flags that roles have in common.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use kafka::config::KafkaArgs;
use runtime::config::PostgresArgs;
use runtime::health::Health;
use runtime::lifecycle::{self, Supervisor};
use runtime::seal::SealingKey;
use runtime::telemetry::logs::LogFormat;

/// How long a process may take to end after the deadline of its tasks.
const LET_GO: Duration = Duration::from_secs(3);

/// Flags that every role has.
#[derive(Args, Clone)]
pub(crate) struct SharedArgs {
    #[command(flatten)]
    pub kafka: KafkaArgs,
    #[command(flatten)]
    pub postgres: PostgresArgs,
    #[command(flatten)]
    pub process: ProcessArgs,
    /// How long a role goes on as before after a signal to end, reporting that it is not ready, milliseconds
    #[arg(long, env = "SHUTDOWN_GRACE_MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(0..=300_000))]
    pub shutdown_grace_ms: u64,
}

impl SharedArgs {
    /// Without tasks. A signal ends it: first the grace, then the tasks' deadline; a process that hangs is ended.
    pub(crate) fn supervisor(&self, health: &Health) -> Supervisor {
        let grace = Duration::from_millis(self.shutdown_grace_ms);
        let shutdown = lifecycle::shutdown_on_signals(health.clone(), grace);
        lifecycle::exit_within(shutdown.clone(), self.process.shutdown_deadline() + LET_GO);
        Supervisor::new(health.clone(), shutdown)
    }
}

/// Flags of a long-running process, whatever it is connected to.
#[derive(Args, Clone)]
pub(crate) struct ProcessArgs {
    /// auto: JSON lines, but readable text on a terminal
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
    /// How long open work may take after a signal to end, milliseconds
    #[arg(long, env = "SHUTDOWN_DEADLINE_MS", default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(100..=300_000))]
    pub shutdown_deadline_ms: u64,
}

impl ProcessArgs {
    pub(crate) fn shutdown_deadline(&self) -> Duration {
        Duration::from_millis(self.shutdown_deadline_ms)
    }
}

/// Where the sealing key comes from. Without it nothing starts: secrets could neither be written nor read.
#[derive(Args, Clone)]
#[group(required = true, multiple = false)]
pub(crate) struct SealingArgs {
    /// Base64 of 32 random bytes, the same on every instance (make one: openssl rand -base64 32)
    #[arg(long, env = "SEALING_KEY", hide_env_values = true)]
    sealing_key: Option<String>,
    /// A file that holds it; `ingest` makes it when absent, `dispatcher` does not
    #[arg(long, env = "SEALING_KEY_FILE", value_name = "FILE")]
    sealing_key_file: Option<PathBuf>,
}

impl SealingArgs {
    pub(crate) fn load(&self) -> Result<SealingKey> {
        match (&self.sealing_key, &self.sealing_key_file) {
            (Some(text), _) => Ok(SealingKey::from_base64(text)?),
            (None, Some(path)) => Ok(SealingKey::load_or_create(path)?),
            (None, None) => anyhow::bail!("SEALING_KEY or SEALING_KEY_FILE must be set"),
        }
    }

    /// For a role that only opens: a key of its own making would open nothing.
    pub(crate) fn load_existing(&self) -> Result<SealingKey> {
        match &self.sealing_key_file {
            Some(path) => SealingKey::load(path)
                .context("SEALING_KEY_FILE (this role makes none: it takes the one that `triggers ingest` made)"),
            None => self.load(),
        }
    }
}
